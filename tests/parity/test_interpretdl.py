"""InterpretDL's interpreters against numbers that InterpretDL 0.8 itself gave, on networks with the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pellucid.interpretdl as it
from pellucid.batch import Run
from pellucid.gradient import gradient
from pellucid.interpretdl import lime as lime_module
from pellucid.interpretdl.base import Scored
from pellucid.interpretdl.lime import fitted
from pellucid.perturb.normlime import averaged, prior_ridge
from pellucid.pictures import IMAGENET
from pellucid.view import at_input
from tests.parity import interpretdl_nets as nets

KEPT = np.load(Path(__file__).with_name("interpretdl_numbers.npz"))
META = json.loads(str(KEPT["meta"]))
ATTENTION = "^blocks.[0-9]*.attn.attn_drop$"


@pytest.fixture(scope="module")
def net():
    return {name: nets.load(name, KEPT).eval() for name in nets.NETS}


def given(name):
    return KEPT[f"in/{name}"]


def assert_like(name, found, tolerance=2e-5):
    expected = KEPT[f"out/{name}"]
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert np.nanmax(np.abs(found - expected)) <= tolerance * np.nanmax(np.abs(expected))


def arguments(name, *names):
    return {key: META[name]["arguments"][key] for key in names}


QUIET = {"visual": False}


@pytest.mark.parametrize("name", nets.NETS)
def test_the_twins_answer_alike(net, name):
    inputs = {"vit14": given("pictures14_normalised"), "text": given("ids")}.get(name, given("pictures_normalised"))
    if name == "clip":
        answer = net[name](torch.from_numpy(given("pictures14_normalised")), torch.from_numpy(given("clip_ids")))[0]
    else:
        answer = net[name](torch.from_numpy(inputs))
    assert_like(f"logits_{name}", answer.detach().numpy())


@pytest.mark.parametrize("of", ["probability", "logit", "loss"])
def test_integrated_gradients(net, of):
    found = it.IntGradCVInterpreter(net["cnn"]).interpret(given("pictures"), [2, 0], steps=10, gradient_of=of, **QUIET)
    assert_like(f"intgrad_cv_{of}", found)


def test_integrated_gradients_of_predictions_and_of_given_baselines(net):
    interpreter = it.IntGradCVInterpreter(net["vit"])
    assert_like("intgrad_cv_vit", interpreter.interpret(given("pictures"), steps=10, **QUIET))
    assert interpreter.labels == KEPT["out/intgrad_cv_vit/labels"].tolist()
    baselines = given("intgrad_cv_random/baselines")
    found = it.IntGradCVInterpreter(net["cnn"]).interpret(given("pictures"), [2, 0], baselines, steps=5, **QUIET)
    assert_like("intgrad_cv_random", found)


def test_gradients_of_noisy_pictures(net):
    x = torch.from_numpy(given("pictures_normalised"))
    for name, labels, noise in (("smoothgrad_cv", [1, 3], given("smoothgrad_cv/noise")),):
        view = at_input(Scored(net["cnn"]), x, labels)
        each = [gradient(view.moved((x + torch.from_numpy(n),)), Run()).values[0][0] for n in noise]
        assert_like(name, torch.stack(each).mean(0).numpy())
    noise, places = torch.from_numpy(given("gradshap_cv/noise")), torch.from_numpy(given("gradshap_cv/r"))
    found = []
    for i, label in enumerate([1, 3]):
        noisy = x[i : i + 1] + noise[i]
        view = at_input(Scored(net["cnn"]), noisy * places[i].view(-1, 1, 1, 1), label)
        found.append((gradient(view, Run()).values[0][0] * noisy).mean(0))
    assert_like("gradshap_cv", torch.stack(found).numpy())


@pytest.mark.parametrize("name", ["occlusion", "occlusion_truncated", "occlusion_baseline"])
def test_occlusion(net, name):
    own = arguments(name, "sliding_window_shapes", "strides")
    baselines = given("occlusion_baseline/baselines") if name == "occlusion_baseline" else None
    labels = META[name]["arguments"]["labels"]
    found = it.OcclusionInterpreter(net["cnn"]).interpret(
        given("pictures"), tuple(own["sliding_window_shapes"]), labels, tuple(own["strides"]), baselines, **QUIET
    )
    assert_like(name, found)


@pytest.mark.parametrize(("suffix", "labels"), [("", None), ("_labels", [2, 0])])
def test_class_activation_maps(net, suffix, labels):
    assert_like(f"gradcam{suffix}", it.GradCAMInterpreter(net["cnn"]).interpret(given("pictures"), "relu2", labels, **QUIET))
    assert_like(f"scorecam{suffix}", it.ScoreCAMInterpreter(net["cnn"]).interpret(given("pictures"), "relu2", labels, **QUIET))


def test_lime_of_pictures(net, monkeypatch):
    samples = torch.from_numpy(given("lime_cv/samples")).bool()
    monkeypatch.setattr(lime_module, "segmented", lambda picture: given("lime_cv/segmentation").astype(np.int64))
    monkeypatch.setattr(lime_module.torch, "rand", lambda *_, **__: torch.where(samples, 0.0, 1.0))
    interpreter = it.LIMECVInterpreter(net["cnn"], random_seed=0)
    found = interpreter.interpret(given("picture_lime"), [0, 1, 2, 3], num_samples=100, **QUIET)
    weights = np.array([[dict(found[label])[region] for region in range(55)] for label in range(4)])
    assert_like("lime_cv/weights", weights, 5e-5)
    assert_like("lime_cv/order", [[region for region, _ in found[label]] for label in range(4)], 0)
    assert_like("lime_cv/r2_scores", [interpreter.lime_results["r2_scores"][label] for label in range(4)], 5e-5)
    assert_like("lime_cv/probability", interpreter.lime_results["probability"].squeeze())


@pytest.mark.parametrize(("name", "force"), [("none", 1.0), ("ridge", 2.5)])
def test_lime_with_a_prior(name, force):
    own = f"glime_cv_{name}"
    kept, chances = torch.from_numpy(given(f"{own}/samples")), torch.from_numpy(given(f"{own}/probabilities"))[:, 2]
    prior = torch.from_numpy(given(f"{own}/global_weights"))[torch.from_numpy(given(f"{own}/clusters")).long()]
    assert_like(f"{own}/weights", fitted(kept, chances, prior if name == "ridge" else None, force).numpy())


def test_the_solve_with_a_prior():
    kept, scores = torch.from_numpy(given("lime_solve/samples")), torch.from_numpy(given("lime_solve/answers"))[:, 1]
    nearness = torch.from_numpy(np.sqrt(np.exp(-(given("lime_solve/distances") ** 2) / 0.25**2)))
    prior = torch.from_numpy(given("lime_solve/prior"))
    for name, own, strength in (("zero", None, 1.0), ("prior", prior, 1.0), ("strong", prior, 10.0)):
        assert_like(f"lime_solve/{name}", prior_ridge(kept, scores, nearness, own, strength).numpy())


@pytest.mark.parametrize("name", ["lime_nlp", "lime_nlp_padded"])
def test_lime_of_texts(net, name, monkeypatch):
    samples = torch.from_numpy(given(f"{name}/samples")).bool()
    ids = META[name]["arguments"]["ids"]
    whole = torch.ones(len(samples), len(ids), dtype=torch.bool)
    whole[:, : samples.shape[1]] = samples
    monkeypatch.setattr("pellucid.interpretdl.text.torch.rand", lambda *_, **__: torch.where(whole, 0.0, 1.0))
    interpreter = it.LIMENLPInterpreter(net["text"], random_seed=0)
    found = interpreter.interpret(
        "a text", text_to_input_fn=lambda _: np.array([ids]), unk_id=3, pad_id=0, classes_to_interpret=[0, 1, 2], num_samples=100
    )
    assert_like(f"{name}/weights", [[weight for _, weight in found[label]] for label in range(3)])


def test_importance_over_many_explanations():
    weights, labels, clusters = (given(f"global_weights/{name}") for name in ("lime_weights", "labels", "clusters"))
    for kind in ("normlime", "avg", "square"):
        table = np.full((2, 5), np.nan)
        for label in range(2):
            own = [list(zip(c.tolist(), w.tolist(), strict=True)) for w, c, y in zip(weights, clusters, labels, strict=True) if y == label]
            for cluster, (importance, _) in averaged(own, kind).items():
                table[label, cluster] = importance
        assert_like(f"global_weights/{kind}", table)
    table, counts = np.full((2, 8), np.nan), np.full((2, 8), np.nan)
    for label in range(2):
        own = [list(enumerate(w.tolist())) for w, y in zip(weights, labels, strict=True) if y == label]
        for position, (importance, count) in averaged(own, "normlime", positive=True).items():
            table[label, position], counts[label, position] = importance, count
    assert_like("normlime_nlp/weights", table)
    assert_like("normlime_nlp/counts", counts)


@pytest.mark.parametrize("start", [0, 1])
def test_maps_of_attention(net, start):
    pictures = given("pictures14")
    rollout = it.RolloutInterpreter(net["vit14"]).interpret(pictures, start, ATTENTION, **QUIET)
    assert_like(f"rollout_{start}", rollout)
    label = META[f"tam_{start}"]["arguments"]["label"]
    assert_like(f"tam_{start}", it.TAMInterpreter(net["vit14"]).interpret(pictures, start, 5, label, **QUIET))
    own = arguments(f"ga_cv_{start}", "label", "gradient_of")
    assert_like(f"ga_cv_{start}", it.GACVInterpreter(net["vit14"]).interpret(pictures[:1], start, ATTENTION, **own, **QUIET))


@pytest.mark.parametrize("mode", ["head", "token"])
@pytest.mark.parametrize("start", [0, 1])
def test_bidirectional_maps(net, mode, start):
    name = f"bt_cv_{mode}_{start}"
    own = arguments(name, "label", "gradient_of")
    found = it.BTCVInterpreter(net["vit14"]).interpret(
        given("pictures14")[:1], mode, start, 5, ATTENTION, r"^blocks.[0-9]*.attn.qkv$", **own, **QUIET
    )
    assert_like(name, found)


def text_of(name):
    ids = META[name]["arguments"]["ids"]
    return {"raw_text": "a text", "text_to_input_fn": lambda _: torch.tensor([ids])}


def test_texts(net):
    for name in ("intgrad_nlp_logit", "intgrad_nlp_probability"):
        own = arguments(name, "label", "steps", "gradient_of")
        assert_like(name, it.IntGradNLPInterpreter(net["text"]).interpret(**text_of(name), **own))
    for name in ("ga_nlp_0", "ga_nlp_1"):
        own = arguments(name, "start_layer", "attn_map_name", "gradient_of")
        assert_like(name, it.GANLPInterpreter(net["text"]).interpret(**text_of(name), **own))
    for name in ("bt_nlp_head_0", "bt_nlp_head_1", "bt_nlp_token_0"):
        own = arguments(name, "label", "ap_mode", "start_layer", "steps", "embedding_name", "attn_map_name", "attn_v_name", "gradient_of")
        assert_like(name, it.BTNLPInterpreter(net["text"]).interpret(**text_of(name), **own))


@pytest.mark.parametrize("number", [0, 1])
def test_picture_and_text(net, number):
    own = arguments(f"ga_clip_{number}", "vis_attn_layer_pattern", "txt_attn_layer_pattern", "start_layer", "start_layer_text")
    text, image = it.GAInterpreter(net["clip"]).interpret(given("pictures14")[:1], "a text", given("clip_ids"), **own, **QUIET)
    assert_like(f"ga_clip_{number}/text", text)
    assert_like(f"ga_clip_{number}/image", image)


def test_pictures_are_normalised_alike():
    torch.testing.assert_close(IMAGENET.normalised(given("pictures")), torch.from_numpy(given("pictures_normalised")))


def by_gradient(layer, x, relevance):
    """`x * dz/dx (R / z)`, nothing where there is nothing to share."""
    x = x.detach().requires_grad_()
    z = layer(x)
    share = torch.where(z.abs() > 0, relevance / torch.where(z == 0, 1.0, z), 0.0)
    return (x * torch.autograd.grad(z, x, share)[0]).detach()


def test_lrp_is_alpha_one_beta_zero_with_a_box_at_the_first_layer(net):
    """Layer by layer, as section 1.7 of the facts about InterpretDL writes it."""
    cnn = net["cnn"].double()
    x = IMAGENET.normalised(given("pictures")).double()
    low, high = (getattr(x.float().flatten(1), end)(1).double().view(-1, 1, 1, 1) for end in ("amin", "amax"))
    with torch.no_grad():
        a1 = cnn.relu1(cnn.conv1(x))
        p1 = cnn.pool1(a1)
        a2 = cnn.relu2(cnn.conv2(p1))
        flat = cnn.pool2(a2).flatten(1)
        logits = cnn.fc(flat)
    labels = logits.argmax(1)
    relevance = torch.zeros_like(logits).scatter(1, labels[:, None], logits.gather(1, labels[:, None]))
    positive = lambda layer, f: lambda v: f(v, layer.weight.detach().clamp(min=0))  # noqa: E731
    relevance = by_gradient(positive(cnn.fc, torch.nn.functional.linear), flat, relevance)
    relevance = by_gradient(cnn.pool2, a2, relevance[..., None, None])
    convolved = lambda v, w: torch.nn.functional.conv2d(v, w, padding=1)  # noqa: E731
    relevance = by_gradient(positive(cnn.conv2, convolved), p1, relevance)
    relevance = by_gradient(cnn.pool1, a1, relevance)
    weight = cnn.conv1.weight.detach()
    up, down = weight.clamp(min=0), weight.clamp(max=0)
    parts = [v.detach().clone().requires_grad_() for v in (x, low.expand_as(x), high.expand_as(x))]
    z = convolved(parts[0], weight) - convolved(parts[1], up) - convolved(parts[2], down)
    grads = torch.autograd.grad(z, parts, relevance / z)
    expected = sum(v * g for v, g in zip(parts, grads, strict=True)).detach().sum(1, keepdim=True)
    torch.testing.assert_close(expected.sum((1, 2, 3)), logits.gather(1, labels[:, None])[:, 0])  # nothing is lost
    found = it.LRPCVInterpreter(cnn).interpret(given("pictures"), visual=False)
    cnn.float()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5 * np.abs(expected.numpy()).max())
