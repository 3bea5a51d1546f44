"""What bad input gets: an error of the project's own that names the value, the rule and the way out; nothing is changed."""

import numpy as np
import pytest
import torch

import pellucid
from pellucid import FileError, InputError, MissingExtra, OptionError, OutputError, PellucidError, TargetError, UntrustedResult
from pellucid.captum import attr
from tests.models import Mlp, Regression, TwoInputs, assert_same_state, state_of

X = torch.randn(3, 5)
NAN = torch.tensor([[1.0, float("nan"), 0, 0, 0]])
MODEL = Mlp().eval()


def returns(value):
    return lambda x: value


REFUSED = [
    ("target out of range", {"target": 7}, TargetError, ["target 7", "3 entries", "0 to 2"]),
    ("target below range", {"target": -4}, TargetError, ["target -4", "0 to 2"]),
    ("targets for another batch", {"target": [0, 1]}, TargetError, ["list of 2", "3 examples", "explain_each"]),
    ("target tensor for another batch", {"target": torch.tensor([0, 1])}, TargetError, ["(2,)", "3 examples"]),
    ("target too deep", {"target": (1, 2)}, TargetError, ["(1, 2)", "at most 1"]),
    ("target of floats", {"target": torch.tensor([0.0, 1, 2])}, TargetError, ["float32", ".long()"]),
    ("target of no kind", {"target": 1.5}, TargetError, ["1.5", "float"]),
    ("class without names", {"target": "cat"}, TargetError, ["'cat'", "classes=[...]"]),
    ("unknown class", {"target": "cat", "classes": ["dog", "cow", "pig"]}, TargetError, ["'cat'", "'dog', 'cow', 'pig'"]),
    ("target function of the wrong shape", {"target": lambda y: y}, TargetError, ["(3, 3)", "(3,)"]),
    ("target where there is none", {"model": Regression().eval(), "target": 0}, TargetError, ["one score per example", "target=None"]),
    ("nothing given", {"inputs": ()}, InputError, ["tuple", "tensor"]),
    ("no tensor", {"inputs": [[1.0]]}, InputError, ["list", "torch.as_tensor"]),
    ("no batch", {"inputs": torch.tensor(1.0)}, InputError, ["unsqueeze(0)"]),
    ("empty batch", {"inputs": torch.zeros(0, 5)}, InputError, ["[0]"]),
    ("different batches", {"model": TwoInputs(), "inputs": (torch.ones(3, 4), torch.ones(5, 3))}, InputError, ["[3, 5]"]),
    ("NaN", {"inputs": NAN}, InputError, ["1 NaN", "(0, 1)", "fill or drop"]),
    ("integers with gradients", {"inputs": torch.ones(3, 5, dtype=torch.long)}, InputError, ["int64", ".float()", "feature_ablation"]),
    ("baseline of the wrong shape", {"baselines": torch.zeros(4)}, InputError, ["(4,)", "(3, 5)", "(5,)"]),
    ("baseline of another batch", {"baselines": torch.zeros(2, 5)}, InputError, ["(2, 5)"]),
    ("too many baselines", {"baselines": (0, 1)}, InputError, ["2 baselines", "1 inputs"]),
    ("baseline of no kind", {"baselines": "zero"}, InputError, ["str"]),
    ("NaN baseline", {"baselines": NAN}, InputError, ["NaN", "baselines"]),
    ("distribution of the wrong shape", {"baselines": torch.zeros(9, 4), "method": "gradient_shap"}, InputError, ["(9, 4)", "(5,)"]),
    ("mask of floats", {"method": "feature_ablation", "feature_mask": torch.zeros(5)}, InputError, ["float32", "integer"]),
    ("mask of the wrong shape", {"method": "feature_ablation", "feature_mask": torch.zeros(1, 4).long()}, InputError, ["(1, 4)", "(3, 5)"]),
    ("unknown method", {"method": "lrpp"}, OptionError, ["'lrpp'", "integrated_gradients"]),
    ("unknown option", {"stepps": 3}, OptionError, ["'stepps'", "steps"]),
    ("option of another method", {"method": "saliency", "steps": 3}, OptionError, ["'steps'", "no options"]),
    ("no steps", {"steps": 0}, OptionError, ["steps is 0"]),
    ("unknown rule", {"rule": "simpson"}, OptionError, ["'simpson'", "gausslegendre"]),
    ("no samples", {"method": "smoothgrad", "samples": 0}, OptionError, ["samples is 0"]),
    ("negative noise", {"method": "smoothgrad", "stdev": -1.0}, OptionError, ["-1.0"]),
    ("noise upon noise", {"method": "smoothgrad", "of": "vargrad"}, OptionError, ["'vargrad'"]),
    ("fields that may be scores", {"model": returns({"a": X, "b": X}), "target": 1}, OutputError, ["dict", "'a' (3, 5)", "lambda output"]),
    ("a field that is not there", {"model": returns({"a": X, "b": X}), "target": ("c", 1)}, TargetError, ["'c'", "'a' (3, 5)"]),
    ("rows that are not examples", {"model": lambda x: x.mean(0, keepdim=True), "target": 1}, OutputError, ["(1, 5)", "3 examples"]),
    ("complex scores", {"model": returns(torch.ones(3, dtype=torch.complex64))}, OutputError, ["complex64"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "kind", "words"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_does_not_fit_is_refused_in_words(arguments, kind, words):
    arguments = {"model": MODEL, "inputs": X, "target": 1} | arguments
    modules = [m for m in (arguments["model"],) if isinstance(m, torch.nn.Module)]
    before = [state_of(m) for m in modules]
    with pytest.raises(kind) as caught:
        pellucid.explain(**arguments)
    assert isinstance(caught.value, PellucidError)
    for word in words:
        assert word in str(caught.value)
    for state, module in zip(before, modules, strict=True):
        assert_same_state(state, state_of(module))


def test_captums_classes_refuse_in_the_same_words():
    with pytest.raises(TargetError, match="target 9 is out of range"):
        attr.Saliency(MODEL).attribute(X, 9)
    with pytest.raises(OptionError, match="perturbation_per_eval"):
        attr.FeatureAblation(MODEL).attribute(X, target=1, perturbation_per_eval=8)
    with pytest.raises(OptionError, match="perturbations_per_eval is 0"):
        attr.FeatureAblation(MODEL).attribute(X, target=1, perturbations_per_eval=0)
    with pytest.raises(TargetError, match="no target says which"):
        attr.IntegratedGradients(MODEL).attribute(X)
    with pytest.raises(OptionError, match="smoothed"):
        attr.NoiseTunnel(attr.Saliency(MODEL)).attribute(X, nt_type="smoothed", target=1)


def test_the_models_own_error_stays_itself_and_says_what_it_was_called_with():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        pellucid.explain(MODEL, torch.ones(3, 4), 1)
    assert "(3, 4) torch.float32" in caught.value.__notes__[0]


def test_strict_refuses_what_fails_a_check_and_what_was_guessed():
    with pytest.raises(UntrustedResult, match="no target was given"):
        pellucid.explain(MODEL, X, strict=True)
    with pytest.raises(UntrustedResult, match="completeness"):
        pellucid.explain(MODEL, 5 * X, 1, steps=1, rule="riemann_left", strict=True)
    with pytest.raises(UntrustedResult, match="train mode"):
        pellucid.explain(torch.nn.Sequential(torch.nn.Dropout(0.5), Mlp()), X, 1, "saliency", strict=True)
    assert pellucid.explain(MODEL, X, 1, steps=200, strict=True).healthy


def test_a_missing_extra_names_itself():
    with pytest.raises(MissingExtra, match=r"pellucid\[vision\]"):
        pellucid.errors.need("a_module_that_nobody_has", "vision")


def test_files_that_are_not_explanations(tmp_path):
    for content in (b"", b"not safetensors at all", None):
        path = tmp_path / "file.safetensors"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(FileError, match=r"file\.safetensors"):
            pellucid.Explanation.load(path)
    from safetensors.torch import save_file

    save_file({"x": X}, tmp_path / "other.safetensors")
    with pytest.raises(FileError, match="not an explanation"):
        pellucid.Explanation.load(tmp_path / "other.safetensors")
    with pytest.raises(FileError, match="cannot write"):
        pellucid.explain(MODEL, X, 1, "saliency").save(tmp_path / "no" / "folder.safetensors")


def test_class_names_may_come_as_an_array():
    names = np.array(["a", "b", "c"])
    assert pellucid.explain(Mlp().eval(), torch.randn(2, 5), "b", "saliency", classes=names).target == "output 1 (b)"
    with pytest.raises(TargetError, match="'z' is not a class"):
        pellucid.explain(Mlp().eval(), torch.randn(2, 5), "z", "saliency", classes=names)


def test_weights_made_in_inference_mode_serve_methods_without_gradients():
    with torch.inference_mode():
        model = Mlp().eval()
    x = torch.randn(2, 5)
    found = pellucid.explain(model, x, 1, "feature_ablation")
    with torch.no_grad():
        expected = model(x)[:, 1] - model(x * torch.tensor([1, 0, 1, 1, 1]))[:, 1]
    torch.testing.assert_close(found.attribution[:, 1], expected)


def test_options_are_kept_as_plain_values():
    found = pellucid.explain(Mlp().eval(), torch.randn(2, 5), 1, "smoothgrad", samples=np.int64(4), stdev=np.float32(0.5))
    assert found.options == {"samples": 4, "stdev": 0.5}
    assert type(found.options["samples"]) is int


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("integrated_gradients", {"steps": "abc"}, "steps is 'abc'; give a whole number or none"),
        ("integrated_gradients", {"steps": 1.5}, "steps is 1.5; give a whole number"),
        ("integrated_gradients", {"multiply": 1}, "multiply is 1; give true or false"),
        ("smoothgrad", {"stdev": float("nan")}, "stdev is nan; give one number >= 0"),
        ("gradient_shap", {"stdev": -1.0}, r"stdev is -1\.0; give one number >= 0"),
        ("feature_ablation", {"feature_mask": 3}, "feature_mask is 3; give none or a tensor or a sequence"),
    ],
)
def test_options_of_the_wrong_kind(method, options, said):
    with pytest.raises(OptionError, match=said):
        pellucid.explain(MODEL, X, 1, method, **options)


def test_as_many_names_as_classes():
    with pytest.raises(OptionError, match="classes holds 2 names, but the model returns 3 numbers"):
        pellucid.explain(MODEL, X, 1, "saliency", classes=("cat", "dog"))
