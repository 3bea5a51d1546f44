"""`pellucid.captum.install()`: libraries built on Captum find Pellucid's classes under Captum's names, and back.

Each test runs in an interpreter of its own, so that no other test meets a replaced `captum`.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

# The ways to a class or function that Captum's own code, tutorials and dependent libraries use.
NAMES = """
import importlib
import sys

CLASSES = {
    "Saliency": "saliency", "InputXGradient": "input_x_gradient", "IntegratedGradients": "integrated_gradients",
    "GradientShap": "gradient_shap", "NoiseTunnel": "noise_tunnel", "FeatureAblation": "feature_ablation",
}
BASES = ["Attribution", "GradientAttribution", "PerturbationAttribution"]

def captums():
    return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "captum"}

def found():
    "Everything there is to find, by where it was looked for."
    everything = {}
    for name, module in CLASSES.items():
        space = {}
        exec(f"from captum.attr import {name}", space)
        exec(f"from captum.attr._core.{module} import {name} as deep", space)
        everything["attr", name], everything["core", name] = space[name], space["deep"]
        everything["module", name] = getattr(importlib.import_module(f"captum.attr._core.{module}"), name)
    for name in BASES:
        space = {}
        exec(f"from captum.attr import {name}", space)
        exec(f"from captum.attr._utils.attribution import {name} as deep", space)
        everything["attr", name], everything["core", name] = space[name], space["deep"]
    import captum
    from captum.attr._utils import visualization as first
    from captum.attr import visualization as second
    from captum.attr._utils.visualization import visualize_image_attr
    everything["attr", "visualize_image_attr"] = visualize_image_attr
    everything["core", "visualize_image_attr"] = first.visualize_image_attr
    everything["module", "visualize_image_attr"] = second.visualize_image_attr
    everything["core", "IntegratedGradients"] = captum.attr.IntegratedGradients
    return everything

def owners():
    "Whose they are; each is one and the same wherever it was found."
    everything = found()
    for (_, name), thing in everything.items():
        assert thing is everything["attr", name], name
        assert thing.__name__ == name
    return {thing.__module__.split(".")[0] for thing in everything.values()}
"""

# A library that knows only Captum: it subclasses, wraps, looks at types, and finds methods by name.
LIBRARY = '''
import captum
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from captum.attr._core.feature_ablation import FeatureAblation
from captum.attr._utils.attribution import Attribution, GradientAttribution, PerturbationAttribution


class GradientTimesSign(GradientAttribution):
    """A method of its own, written as Captum's are."""

    def __init__(self, forward_func, scale=1.0):
        GradientAttribution.__init__(self, forward_func)
        self.scale = scale

    def attribute(self, inputs, target=None, additional_forward_args=None):
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        leaves = tuple(x.detach().requires_grad_() for x in inputs)
        found = self.gradient_func(self.forward_func, leaves, target, additional_forward_args)
        return self.scale * found[0] * inputs[0].sign()

    @property
    def multiplies_by_inputs(self):
        return True


class Positive(IntegratedGradients):
    """A change of a method: only what speaks for the target."""

    def attribute(self, *args, **kwargs):
        return super().attribute(*args, **kwargs).clamp(min=0)


def explain(model, x, target):
    results = {}
    for name in ("Saliency", "InputXGradient", "IntegratedGradients", "FeatureAblation"):
        results[name] = getattr(captum.attr, name)(model).attribute(x, target=target)
    results["own"] = GradientTimesSign(model, 2.0).attribute(x, target)
    results["positive"] = Positive(model, multiply_by_inputs=False).attribute(x, 0.1, target)
    results["tunnel"] = NoiseTunnel(Saliency(model)).attribute(x, nt_samples=3, stdevs=0.0, target=target)
    attributions, delta = IntegratedGradients(model).attribute(x, target=target, return_convergence_delta=True)
    results["delta"] = IntegratedGradients(model).compute_convergence_delta(attributions, 0, x, target)
    results["mask"] = FeatureAblation(model).attribute(x, target=target, feature_mask=torch.tensor([[0, 0, 1]]))
    return results


def kinds(model):
    made = GradientTimesSign(model), Positive(model), FeatureAblation(model), NoiseTunnel(Positive(model))
    bases = Attribution, GradientAttribution, PerturbationAttribution
    return [(m.get_name(), m.has_convergence_delta(), m.multiplies_by_inputs, [isinstance(m, b) for b in bases]) for m in made]
'''


def alone(code: str) -> None:
    """Run the code, after `NAMES`, in a new interpreter; what it asserts must hold."""
    whole = f"LIBRARY = {LIBRARY!r}\n{NAMES}\n{textwrap.dedent(code)}\nprint('the end')"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.fail(done.stderr, pytrace=False)
    assert done.stdout.endswith("the end\n")


def test_captum_imported_before() -> None:
    alone("""
        import captum
        from captum.attr import Saliency as held
        assert owners() == {"captum"}
        before = captums()
        import pellucid.captum
        assert captums() == before, "nothing changes before install() is called"

        pellucid.captum.install()
        assert owners() == {"pellucid"}
        import captum as installed
        assert installed is pellucid.captum
        assert all(m.__name__.startswith("pellucid.") for m in captums().values()), captums()
        assert held.__module__.startswith("captum."), "a class that somebody holds stays what it is"

        pellucid.captum.uninstall()
        after = captums()
        assert after.keys() == before.keys()
        assert all(after[name] is before[name] for name in before)
        assert owners() == {"captum"}
        from captum.attr import Saliency
        assert Saliency is held

        pellucid.captum.install()  # once more
        assert owners() == {"pellucid"}
        pellucid.captum.uninstall()
        assert owners() == {"captum"}
    """)


def test_captum_not_imported_before() -> None:
    alone("""
        import pellucid.captum
        assert not captums(), "pellucid does not need captum"
        before = dict(sys.modules)
        pellucid.captum.install()
        pellucid.captum.install()  # twice is once
        assert owners() == {"pellucid"}
        assert all(m.__name__.startswith("pellucid.") for m in captums().values()), captums()
        pellucid.captum.uninstall()
        assert not captums()
        assert all(sys.modules.get(name) is module for name, module in before.items())
        pellucid.captum.uninstall()  # nothing to undo
        assert not captums()
        assert owners() == {"captum"}
        pellucid.captum.uninstall()
        assert owners() == {"captum"}, "uninstall() without install() leaves Captum alone"
    """)


def test_captum_not_there_at_all() -> None:
    alone("""
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "captum" and path is None:
                    raise ModuleNotFoundError(f"No module named {name!r}")

        sys.meta_path.insert(0, Refuse())
        import pellucid.captum
        pellucid.captum.install()
        assert owners() == {"pellucid"}
        pellucid.captum.uninstall()
        try:
            import captum
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError("uninstall() left something behind")
    """)


def test_library_built_on_captum() -> None:
    alone("""
        import types
        import torch
        import pellucid.captum

        def load():
            module = types.ModuleType("library")
            exec(LIBRARY, module.__dict__)
            return module

        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
        x = torch.randn(4, 3, dtype=torch.float64)
        library = load()
        assert library.GradientTimesSign.__mro__[1].__module__.startswith("captum.")
        expected, kinds = library.explain(model, x, 1), library.kinds(model)

        pellucid.captum.install()
        installed = load()
        assert {c.__mro__[1].__module__.split(".")[0] for c in (installed.GradientTimesSign, installed.Positive)} == {"pellucid"}
        assert installed.captum is pellucid.captum
        found = installed.explain(model, x, 1)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert value.abs().max() > 0, name
            assert torch.allclose(found[name], value.detach(), rtol=1e-6, atol=1e-7), name
        assert installed.kinds(model) == kinds
        again = library.explain(model, x, 1)  # what was loaded before goes on with Captum
        assert all(torch.equal(value, expected[name]) for name, value in again.items())

        pellucid.captum.uninstall()
        last = load()
        assert last.IntegratedGradients is library.IntegratedGradients
        assert all(torch.equal(value, expected[name]) for name, value in last.explain(model, x, 1).items())
        assert installed.explain(model, x, 1).keys() == expected.keys()
    """)


@pytest.mark.parametrize("first", ["", "import captum.attr"], ids=["not imported", "imported"])
def test_whole_paths(first: str) -> None:
    """Modules named by their whole path, in `import` statements and as attributes."""
    alone(f"""
        {first}
        import pellucid.captum
        pellucid.captum.install()
        ways = [
            "import captum.attr as attr; found = attr.Saliency",
            "import captum.attr; found = captum.attr.Saliency",
            "import captum.attr._core.saliency; from captum.attr._core.saliency import Saliency as found",
            "import captum.attr._core.saliency; found = captum.attr._core.saliency.Saliency",
            "import captum.attr._core.saliency as module; found = module.Saliency",
            "from captum.attr._core import saliency; found = saliency.Saliency",
            "from captum.attr import _core; found = _core.saliency.Saliency",
            "import captum.attr._utils.attribution as module; found = module.Attribution",
            "import captum.attr._utils.attribution; found = captum.attr._utils.attribution.Attribution",
            "from captum.attr._utils import attribution; found = attribution.Attribution",
            "import captum.attr._utils.visualization as module; found = module.visualize_image_attr",
        ]
        wrong = dict()
        for way in ways:
            space = dict()
            try:
                exec(way, space)
            except (ImportError, AttributeError) as error:
                wrong[way] = error
            else:
                if not space["found"].__module__.startswith("pellucid."):
                    wrong[way] = space["found"]
        assert not wrong, "".join(f"\\n{{way}}: {{why}}" for way, why in wrong.items())
    """)


def test_version() -> None:
    """Libraries compare it before they use what is new: it must not be older than the Captum that is stood in for."""
    alone("""
        import captum
        expected = captum.__version__
        import pellucid.captum
        pellucid.captum.install()
        import captum
        assert [int(n) for n in captum.__version__.split(".")[:2]] >= [int(n) for n in expected.split(".")[:2]]
    """)
