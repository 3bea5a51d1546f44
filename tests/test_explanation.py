"""An explanation: what is saved comes back, what it says of itself is true, and it says where it comes from."""

import copy
import dataclasses
import datetime
import hashlib
import html.parser
import json
import platform

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import pellucid
from pellucid import METHODS, Check, Cost, Display, Explanation, FileError, Provenance, UntrustedResult
from pellucid.methods import WITHOUT_GRADIENT
from tests.models import Mlp, Regression, TwoInputs

EVIL = "<script>alert('it')</script>&\"'"
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DEFAULTS = {"smoothgrad": {"samples": 4}, "smoothgrad_sq": {"samples": 4}, "vargrad": {"samples": 4}, "gradient_shap": {"samples": 4}}


def rich(dtype=torch.float64):
    """Every field has a value of its own."""
    return Explanation(
        attributions=(torch.randn(2, 3, dtype=dtype), torch.randn(2, 1, 2, dtype=dtype)),
        features=(torch.randn(2, 3, dtype=dtype), torch.randn(2, 1, 2, dtype=dtype)),
        baselines=(torch.randn(2, 3, dtype=dtype), torch.zeros(1, 1, 2, dtype=dtype).expand(2, 1, 2)),
        scores=torch.randn(2, dtype=dtype),
        baseline_scores=torch.randn(2, dtype=dtype),
        predictions=torch.tensor([1, 0]),
        confidences=torch.tensor([0.75, 0.5], dtype=dtype),
        method="integrated_gradients",
        target="output 1 (Katze)",
        options={"steps": 7, "rule": "trapezoid", "multiply": False, "tolerance": None, "stdev": 0.25},
        health=(Check("target", True, "guessed: é → 猫", guessed=True), Check("completeness", False, "gap", 0.5)),
        cost=Cost(1, 2, 3, 0.125, 4096),
        provenance=Provenance("ab", "cd", "Mlp", 11, {"torch": "2", "python": "3"}, "2025-01-01T00:00:00+00:00"),
        display=Display("image", ("a", "b", "c"), ("dog", EVIL), np.arange(12, dtype=np.uint8).reshape(2, 2, 3)),
    )


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    elif isinstance(one, tuple) and one and isinstance(one[0], torch.Tensor):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_field_comes_back(dtype, tmp_path):
    explanation = rich(dtype)
    path = explanation.save(tmp_path / "one.safetensors")
    assert path == tmp_path / "one.safetensors"
    assert_same(explanation, Explanation.load(path))
    assert_same(explanation, Explanation.load(str(path)))


def test_what_was_not_found_comes_back_as_nothing(tmp_path):
    explanation = Explanation((torch.zeros(2, 3),), (torch.ones(2, 3),), torch.ones(2), "saliency", "output")
    found = Explanation.load(explanation.save(tmp_path / "bare"))
    assert_same(explanation, found)
    assert found.baselines is found.baseline_scores is found.predictions is found.confidences is found.display.picture is None


def test_more_inputs_than_fingers_come_back_in_order(tmp_path):
    inputs = tuple(torch.full((1, 1), float(i)) for i in range(12))
    explanation = Explanation(inputs, inputs, torch.ones(1), "gradient", "output")
    found = Explanation.load(explanation.save(tmp_path / "many"))
    assert [float(a) for a in found.attributions] == [float(f) for f in found.features] == list(range(12))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integer_features_come_back(dtype, tmp_path):
    ids = torch.randint(0, 2, (3, 4)).to(dtype)
    explanation = pellucid.explain(lambda x: x.double().cumsum(1), ids, 3, "feature_ablation", baselines=1)
    assert explanation.features[0].dtype == dtype
    assert_same(explanation, Explanation.load(explanation.save(tmp_path / "ids")))


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_found_comes_back(method, tmp_path):
    explanation = pellucid.explain(
        Mlp().eval(), torch.randn(3, 5), "b", method, seed=4, classes=("a", "b", "c"), names=list("vwxyz"), **DEFAULTS.get(method, {})
    )
    assert_same(explanation, Explanation.load(explanation.save(tmp_path / "found")))


def test_tensors_that_share_memory_or_are_not_contiguous_come_back(tmp_path):
    whole = torch.randn(4, 6)
    tensors = (whole, whole.T[:4], whole[:, ::2], whole[:1].expand(4, 6))
    explanation = Explanation(tensors, tensors, whole[0, :4], "gradient", "output", baselines=tensors)
    assert_same(explanation, Explanation.load(explanation.save(tmp_path / "views")))


def test_names_of_numpys_types_are_saved_as_words(tmp_path):
    classes = np.array(["dog", "cat", "cow"])
    explanation = pellucid.explain(Mlp().eval(), torch.randn(2, 5), "cat", "gradient", classes=classes, names=np.array(list("vwxyz")))
    found = Explanation.load(explanation.save(tmp_path / "words"))
    assert found.display.classes == ("dog", "cat", "cow")
    assert found.display.names == tuple("vwxyz")
    numbered = pellucid.explain(Mlp().eval(), torch.randn(2, 5), 1, "gradient", classes=np.arange(3))
    assert Explanation.load(numbered.save(tmp_path / "numbers")).display.classes == ("0", "1", "2")


def test_a_file_is_written_over_and_what_was_loaded_from_it_stays(tmp_path):
    path = tmp_path / "twice"
    first, second = rich(), rich(torch.float32)
    first.save(path)
    loaded = Explanation.load(path)
    second.save(path)
    assert_same(loaded, first)
    assert_same(Explanation.load(path), second)
    Explanation.load(path).save(path)
    assert_same(Explanation.load(path), second)


def broken(tmp_path):
    """Files that are no explanations, each by another fault."""
    good = rich().save(tmp_path / "good")
    with safe_open(good, "pt") as file:
        words = json.loads(file.metadata()["pellucid"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def written(name, words, tensors):
        save_file(tensors, tmp_path / name, {"pellucid": words if isinstance(words, str) else json.dumps(words)})

    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("no safetensors file at all, though long enough to be one\n" * 9)
    (tmp_path / "short").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "folder").mkdir()
    save_file({"x": torch.ones(2)}, tmp_path / "without words")
    written("no json", "{", tensors)
    written("a list", [], tensors)
    written("another format", words | {"format": "pellucid-explanation-0"}, tensors)
    written("no method", {k: v for k, v in words.items() if k != "method"}, tensors)
    written("odd health", words | {"health": [1]}, tensors)
    written("odd cost", words | {"cost": {"pennies": 1}}, tensors)
    written("no display", words | {"display": None}, tensors)
    for absent in ("attributions.0", "features.0", "scores"):
        written(f"no {absent}", words, {k: v for k, v in tensors.items() if k != absent})
    return [path for path in tmp_path.iterdir() if path != good]


def test_a_file_of_something_else_is_refused_by_name(tmp_path):
    paths = [*broken(tmp_path), tmp_path / "missing", tmp_path / "no folder" / "missing"]
    assert len(paths) == 17
    for path in paths:
        with pytest.raises(FileError) as caught:
            Explanation.load(path)
        assert repr(str(path)) in str(caught.value), path
        assert "not an explanation saved by pellucid" in str(caught.value)
        assert isinstance(caught.value, OSError)


def test_where_nothing_can_be_written_the_path_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(FileError) as caught:
            rich().save(path)
        assert repr(str(path)) in str(caught.value)


def test_what_it_says_of_itself():
    explanation = rich()
    words = repr(explanation)
    for part in ("integrated_gradients", "output 1 (Katze)", "(2, 3), (2, 1, 2)", "look at: completeness"):
        assert part in words
    assert len(explanation) == 2
    assert not explanation.healthy
    well = dataclasses.replace(explanation, health=explanation.health[:1])
    assert well.healthy
    assert "healthy" in repr(well)
    assert "look at" not in repr(well)


def test_a_check_is_found_by_name():
    explanation = rich()
    assert explanation.check("completeness") is explanation.health[1]
    assert explanation.check("target").guessed
    assert explanation.check("spread") is None


def test_attribution_is_that_of_the_first_input():
    a, b = torch.randn(3, 4), torch.randn(3, 3)
    explanation = pellucid.explain(lambda a, b: a.sum(1) + 2 * b.sum(1), (a, b), None, "gradient")
    assert len(explanation.attributions) == 2
    assert explanation.attribution is explanation.attributions[0]
    assert torch.equal(explanation.attribution, torch.ones(3, 4))
    assert torch.equal(explanation.attributions[1], torch.full((3, 3), 2.0))


class Markup(html.parser.HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [value for _, value in attrs if value]

    def handle_data(self, data):
        self.text += data


SHAPES = {"table": (2, 3), "text": (2, 3, 4), "series": (2, 3, 6), "image": (2, 3, 5, 5), "tensor": (2, 2, 2, 2, 2)}


@pytest.mark.parametrize("kind", SHAPES)
def test_html_escapes_whatever_a_user_named(kind):
    shape = SHAPES[kind]
    explanation = Explanation(
        attributions=(torch.randn(shape),),
        features=(torch.randn(shape),),
        scores=torch.ones(2),
        predictions=torch.tensor([0, 0]),
        confidences=torch.tensor([0.5, 0.5]),
        method=EVIL,
        target=EVIL,
        options={EVIL: EVIL},
        health=(Check(EVIL, False, EVIL, 0.5), Check("completeness", True, EVIL)),
        provenance=Provenance(EVIL, EVIL, EVIL, 3, {EVIL: EVIL}, EVIL),
        display=Display(kind, (EVIL,) * 3 if kind in ("table", "text") else (), (EVIL, "cat")),
    )
    page = explanation._repr_html_()
    markup = Markup(page)
    assert "script" not in markup.tags
    assert "<script>" not in page
    assert not any(name in markup.tags for name in ("iframe", "object", "link"))
    everything = markup.text + " ".join(markup.attributes)
    assert EVIL in everything  # shown as it was named, and not as markup
    assert "predicted" in everything


def test_explain_each_is_explain_for_each_target():
    model, x, targets = Mlp().double().eval(), torch.randn(3, 5).double(), [2, "b", [0, 1, 2], lambda y: y.logsumexp(1)]
    for method in METHODS:
        options = {"seed": 8, "classes": ("a", "b", "c"), **DEFAULTS.get(method, {})}
        together = pellucid.explain_each(model, x, targets, method, **options)
        assert len(together) == len(targets)
        for target, found in zip(targets, together, strict=True):
            alone = pellucid.explain(model, x, target, method, **options)
            for name in ("method", "target", "options", "display"):
                assert_same(getattr(found, name), getattr(alone, name))
            for name in ("attribution", "scores", "baseline_scores", "predictions", "confidences"):
                one, other = getattr(found, name), getattr(alone, name)
                if other is None:
                    assert one is None, (method, name)
                else:
                    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
            assert [(c.name, c.passed, c.guessed) for c in found.health] == [(c.name, c.passed, c.guessed) for c in alone.health]
            numbers = [[c.value for c in e.health if c.value is not None] for e in (found, alone)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-6, abs=1e-12), method
            origin = dataclasses.replace(found.provenance, created=alone.provenance.created)
            assert origin == alone.provenance


class Passing(torch.autograd.Function):
    """The identity; counts the examples that come back."""

    @staticmethod
    def forward(ctx, x, meter):
        ctx.meter = meter
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.meter.backwards += len(grad)
        return grad, None


class Meter(nn.Module):
    """Counts what a model is asked for."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.reset()

    def reset(self):
        self.calls = self.forwards = self.backwards = 0

    def forward(self, x):
        self.calls += 1
        self.forwards += len(x)
        return self.inner(Passing.apply(x, self))


@pytest.mark.parametrize("at_most", [None, 2, 7])
@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("method", METHODS)
def test_the_cost_is_what_the_model_was_asked_for(method, target, at_most):
    meter, x = Meter(Mlp().eval()), torch.randn(3, 5)
    for _ in range(2):  # the first time, the memory that an example takes is measured with a pass of one example
        meter.reset()
        cost = pellucid.explain(meter, x, target, method, at_most=at_most, **DEFAULTS.get(method, {})).cost
        assert (cost.calls, cost.forwards, cost.backwards) == (meter.calls, meter.forwards, meter.backwards)
        assert meter.forwards >= 3
    assert (cost.backwards == 0) == (method in WITHOUT_GRADIENT)
    assert cost.seconds > 0
    assert cost.peak_memory >= 0


def test_hashes_follow_the_weights():
    model, x = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval(), torch.randn(3, 5)
    hashed = lambda: pellucid.explain(model, x, 1, "gradient").provenance.weights  # noqa: E731
    seen = [hashed()]
    twin = copy.deepcopy(model)
    assert pellucid.explain(twin, x, 1, "gradient").provenance.weights == seen[0]

    def changed(change):
        with torch.no_grad():
            change()
        assert hashed() not in seen
        seen.append(hashed())

    changed(lambda: model[0].weight[0, 0].add_(1e-3))
    changed(lambda: model[2].bias.data.mul_(2))  # autograd's version counters do not see this
    changed(lambda: model[0].weight.data[1, 1].fill_(0))
    changed(lambda: setattr(model[0].weight, "data", torch.randn(4, 5)))
    changed(lambda: model[1].running_mean.add_(1))
    changed(lambda: model.double().float()[2].weight.copy_(torch.ones(2, 4)))
    changed(lambda: model.register_module("0", nn.Linear(5, 4)))
    model.load_state_dict(twin.state_dict())
    assert hashed() == seen[0]
    model.load_state_dict(twin.state_dict(), assign=True)
    assert hashed() == seen[0]


def test_hashes_follow_the_inputs():
    hashed = lambda *x: pellucid.explain(lambda *y: sum(z.double().sum(1) for z in y), x, None, "feature_ablation").provenance.inputs  # noqa: E731
    x, y = torch.randn(3, 5), torch.randn(3, 2)
    assert hashed(x) == hashed(x.clone()) == hashed(x.T.contiguous().T)
    other = x.clone()
    other[2, 4] = torch.nextafter(other[2, 4], torch.tensor(9.0))
    found = [hashed(x), hashed(other), hashed(x.flip(0)), hashed(x.double()), hashed(x, y), hashed(y, x), hashed(x[:2]), hashed(x[:, :4])]
    assert len(set(found)) == len(found)


def test_hashes_follow_nothing_else():
    model, x = Mlp().eval(), torch.randn(3, 5)
    first = pellucid.explain(model, x, 1, "gradient").provenance
    same = [
        pellucid.explain(model, x, 0, "gradient"),
        pellucid.explain(model, x, 1, "smoothgrad", seed=3, samples=4),
        pellucid.explain(model, x, 1, baselines=1.0, steps=5, classes="abc", names="vwxyz", at_most=1),
        pellucid.explain(model.forward, x, 1, "gradient"),
        pellucid.explain(lambda z: model(z), x, 1, "gradient"),
        pellucid.explain(model.train(), x.requires_grad_(), 1, "gradient"),
        pellucid.explain(model.requires_grad_(False), x, 1, "gradient"),
    ]
    for explanation in same:
        assert (explanation.provenance.weights, explanation.provenance.inputs) == (first.weights, first.inputs)
    assert len(first.weights) == len(first.inputs) == 64
    assert same[1].provenance.seed == 3


def test_hashes_are_sha_256_of_the_values():
    """Computed here from the definition: name, type and shape of each tensor, then its bytes."""
    model, x = nn.Linear(2, 3), torch.randn(4, 2, dtype=torch.float32)
    named = {"weight": model.weight, "bias": model.bias}
    weights = b"".join(f"{n} torch.float32 {tuple(t.shape)}\n".encode() + t.detach().numpy().tobytes() for n, t in named.items())
    found = pellucid.explain(model, x, 1, "gradient").provenance
    assert found.weights == hashlib.sha256(weights).hexdigest()
    assert found.inputs == hashlib.sha256(b"0 torch.float32 (4, 2)\n" + x.numpy().tobytes()).hexdigest()


def test_weights_of_every_dtype_and_of_none_are_hashed():
    mixed = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double(), nn.Linear(3, 2).to(torch.bfloat16))
    mixed.register_buffer("count", torch.tensor(1))
    mixed.register_buffer("nothing", torch.zeros(0))
    mixed.forward = lambda x: mixed[2](mixed[1](mixed[0](x).double()).bfloat16()).float()
    before = pellucid.explain(mixed, torch.randn(2, 3), 1, "gradient").provenance.weights
    mixed.count += 1
    assert pellucid.explain(mixed, torch.randn(2, 3), 1, "gradient").provenance.weights != before
    assert pellucid.explain(lambda x: x.cumsum(1), torch.randn(2, 3), 1, "gradient").provenance.weights == ""
    assert pellucid.explain(nn.ReLU(), torch.randn(2, 3), 1, "gradient").provenance.weights != ""


def test_provenance_names_model_versions_and_time():
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    found = pellucid.explain(Mlp().eval(), torch.randn(2, 5), 1, "gradient").provenance
    assert found.model == "Mlp"
    assert found.versions == {"pellucid": pellucid.__version__, "torch": torch.__version__, "python": platform.python_version()}
    assert before <= datetime.datetime.fromisoformat(found.created) <= datetime.datetime.now(datetime.UTC)
    assert found.seed is None


@pytest.mark.parametrize("method", METHODS)
def test_predictions_and_confidences_are_those_of_the_model(method):
    model, x = Mlp().double().eval(), torch.randn(4, 5).double()
    with torch.no_grad():
        chances, best = model(x).softmax(1).max(1)
    explanation = pellucid.explain(model, x, 0, method, **DEFAULTS.get(method, {}))
    assert torch.equal(explanation.predictions, best)
    torch.testing.assert_close(explanation.confidences, chances)
    of_chances = pellucid.explain(lambda x: model(x).softmax(1), x, 0, method, **DEFAULTS.get(method, {}))
    assert torch.equal(of_chances.predictions, best)
    torch.testing.assert_close(of_chances.confidences, chances)


def test_a_model_without_classes_predicts_none():
    for model, x in ((Regression(), torch.randn(3, 5)), (nn.Linear(5, 1), torch.randn(3, 5))):
        explanation = pellucid.explain(model.eval(), x, None, "gradient")
        assert explanation.predictions is explanation.confidences is None
        with torch.no_grad():
            torch.testing.assert_close(explanation.scores, model(x).flatten())


def test_scores_are_the_models_and_so_are_those_of_the_baselines():
    model, inputs = TwoInputs().eval(), (torch.randn(3, 4), torch.randn(3, 3))
    baselines = (torch.randn(4), 0.5)
    explanation = pellucid.explain(model, inputs, [2, 0, 1], baselines=baselines)
    starts = (baselines[0].expand(3, 4), torch.full((3, 3), 0.5))
    rows = torch.arange(3), torch.tensor([2, 0, 1])
    with torch.no_grad():
        torch.testing.assert_close(explanation.scores, model(*inputs)[rows])
        torch.testing.assert_close(explanation.baseline_scores, model(*starts)[rows])
    for found, start in zip(explanation.baselines, starts, strict=True):
        assert torch.equal(found, start)
    for found, given in zip(explanation.features, inputs, strict=True):
        assert torch.equal(found, given)


def test_strict_lets_the_healthy_pass_and_refuses_doubts():
    model, x = Mlp(activation=nn.Tanh).eval(), torch.randn(3, 5)
    assert pellucid.explain(model, x, 1, strict=True).healthy
    with pytest.raises(UntrustedResult, match=r"integrated_gradients with strict=True: target: no target was given.*predicted class"):
        pellucid.explain(model, x, strict=True)
    with pytest.raises(UntrustedResult, match=r"gradient with strict=True: signal: 3 of 3 examples"):
        pellucid.explain(lambda z: 0 * model(z), x, 1, "gradient", strict=True)
    with pytest.raises(UntrustedResult, match=r"target: .*signal: "):  # all doubts at once
        pellucid.explain(lambda z: 0 * model(z), x, None, "gradient", strict=True)
    with pytest.raises(UntrustedResult, match="signal"):  # of any of the targets
        pellucid.explain_each(lambda z: model(z) * torch.tensor([1.0, 1, 0]), x, [0, 1, 2], "gradient", strict=True)
    assert len(pellucid.explain_each(model, x, [0, 1, 2], "gradient", strict=True)) == 3


def test_strict_takes_one_score_per_example_for_a_stated_target():
    assert pellucid.explain(Regression().eval(), torch.randn(3, 5), None, "gradient", strict=True).healthy
