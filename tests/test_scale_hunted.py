"""Runs over data sets, hunted: an example in a run and alone, sums over all, values that are none."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import pellucid
from pellucid import Sample, scale
from pellucid.errors import InputError, OptionError
from pellucid.scale import Explainer, run

from .scale_cases import Pairs, same

pytest.importorskip("pyarrow")


@pytest.fixture
def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def data():
    torch.manual_seed(2)
    return torch.randn(11, 6, dtype=torch.float64), torch.arange(11) % 3


# -- an example is the same in a run and alone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrays", ["safetensors", "zarr"])
@pytest.mark.parametrize("target", [None, "label"])
def test_target_baselines_and_hashes_are_the_examples_own(arrays, target, net, data, tmp_path):
    pytest.importorskip("zarr")
    x, y = data
    results = run(Explainer(net, target=target, steps=6, baselines=1.0), data, tmp_path / "out", block=4, arrays=arrays)
    for i in range(11):
        same(results[i], pellucid.explain(net, x[i : i + 1], None if target is None else int(y[i]), steps=6, baselines=1.0, seed=0))
    assert results.table(["target"]).to_pydict()["target"] == [results[i].target for i in range(11)]
    assert results[3:5].check("target").message.endswith(results[3:5].target)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("arrays", ["safetensors", "zarr"])
def test_types_of_numbers_come_back(dtype, arrays, net, data, tmp_path):
    pytest.importorskip("zarr")
    x, kind = data[0], getattr(torch, dtype)
    low = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(kind)
    low.load_state_dict(net.state_dict())
    for keep in (True, False):
        out = tmp_path / f"{keep}"
        run(Explainer(net, "integrated_gradients", 1, dtype=dtype, steps=6), x, out, block=4, arrays=arrays, keep_inputs=keep)
        results = scale.open(out, None if keep else x)
        for i in (0, 7, 10):
            same(results[i], pellucid.explain(low, x[i : i + 1].to(kind), 1, steps=6, seed=0), 2e-2)
    assert next(net.parameters()).dtype == torch.float64


def test_a_layer_given_as_a_module_is_found_in_a_copy_of_the_model(net, data, tmp_path):
    results = run(Explainer(net, "gradient", 1, layer=net[1], dtype="float32"), data[0], tmp_path / "out")
    own = pellucid.explain(net.float(), data[0][4:5].float(), 1, "gradient", layer="1", seed=0)
    assert torch.allclose(results[4].attribution, own.attribution)


class Whole(nn.Module):
    """One number for the whole batch."""

    def forward(self, x):
        return (x**2).sum()


def test_a_model_with_one_number_for_the_batch_is_asked_about_each_example(data, tmp_path):
    results = run(Explainer(Whole(), steps=8), data[0], tmp_path / "out", block=4)
    for i in range(11):
        same(results[i], pellucid.explain(Whole(), data[0][i : i + 1], steps=8, seed=0))
    assert results.total.unhealthy == 0


def test_a_number_as_baseline_of_each_example(net, data, tmp_path):
    def prepare(row):
        return Sample((row[None],), baselines=(float(row[0]),))

    results = run(Explainer(net, target=1, steps=6), data[0], tmp_path / "out", block=4, prepare=prepare)
    for i in range(11):
        own = pellucid.explain(net, data[0][i : i + 1], 1, steps=6, seed=0, baselines=float(data[0][i, 0]))
        assert torch.allclose(results[i].attribution, own.attribution)


def test_health_of_those_together_says_so(net, data, tmp_path):
    results = run(Explainer(net, "smoothgrad", 1, samples=6), data[0], tmp_path / "out", block=4)
    assert "(of 4 examples that were explained together)" in results[5].check("spread").message


@pytest.mark.filterwarnings("ignore")
def test_texts_of_a_block_have_their_own_tokens_and_no_padding(tmp_path):
    from . import hugging

    folder = hugging.bert(tmp_path / "model")
    model, tokenizer = hugging.loaded(folder, "AutoModelForSequenceClassification").eval(), hugging.wordpiece()
    texts = ["a good film", "bad", "the film was not good", "good good"]
    results = run(Explainer(model, "saliency", tokenizer=tokenizer), texts, tmp_path / "out", block=3)
    for i, text in enumerate(texts):
        own = pellucid.explain(model, [text], None, "saliency", tokenizer=tokenizer, seed=0)
        assert results[i].display.names == own.display.names
        assert results[i].display.tokens == own.display.tokens
        assert torch.allclose(results[i].attribution, own.attribution, atol=1e-5)
        assert results[i].target == own.target
    several = results[1:4]
    assert several.display.names[:3] == ("[CLS]", "bad", "[SEP]")
    assert {len(tokens) for tokens in several.display.tokens} == {several.attribution.shape[1]}
    with pytest.raises(OptionError, match="texts are of different lengths"):
        run(Explainer(model, "saliency", tokenizer=tokenizer), texts, tmp_path / "zarr", arrays="zarr")
    with pytest.raises(InputError, match="clusters need one"):
        run(Explainer(model, "saliency", tokenizer=tokenizer), texts, tmp_path / "alone", block=1).clusters(2)


@pytest.mark.parametrize("layer", ["module.1", "1"])
def test_a_layer_of_a_model_that_is_spread(layer, net, data, tmp_path):
    results = run(Explainer(nn.DataParallel(net), "gradient", 1, layer=layer), data[0], tmp_path / "out")
    assert torch.equal(results[4].attribution, net[2].weight[1][None])


# -- sums ---------------------------------------------------------------------------------------------------------------------------------


def test_means_tops_and_clusters_beside_a_slow_sum(data, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 3)).double()
    labels = [0, None, 2.0, float("nan"), 1, 0, None, 2, 0, 1, 1]
    results = run(Explainer(net, "input_x_gradient"), Pairs(data[0], labels), tmp_path / "out", block=3)
    chosen = net(data[0]).argmax(1)
    values = (data[0] * net[0].weight[chosen]).detach().numpy()
    groups = {"0": [0, 5, 8], "1": [4, 9, 10], "2": [2, 7], "unknown": [1, 3, 6]}
    found = results.means("label")
    assert dict(zip(found.names, found.counts, strict=True)) == {name: len(rows) for name, rows in groups.items()}
    for name, signed, size, features in zip(found.names, found.signed, found.size, found.features, strict=True):
        assert np.allclose(signed, values[groups[name]].mean(0), atol=1e-6)
        assert np.allclose(size, np.abs(values[groups[name]]).mean(0), atol=1e-6)
        assert np.allclose(features, data[0].numpy()[groups[name]].mean(0), atol=1e-6)
    top = results.top_features(2)["all"]
    order = np.argsort(-np.abs(values).mean(0))[:2]
    assert [name for name, *_ in top] == [f"feature {i}" for i in order]
    assert np.allclose([size for _, size, _ in top], np.abs(values).mean(0)[order], atol=1e-6)
    clusters = results.clusters(3)
    rows = values / np.linalg.norm(values, axis=1, keepdims=True)
    for group, count in enumerate(clusters.counts):
        members = [e for e, g in zip(clusters.examples, clusters.groups, strict=True) if g == group]
        assert len(members) == count
        assert np.allclose(clusters.centres[group], rows[members].mean(0), atol=1e-6)


class Holed(nn.Module):
    """One example has no gradient that is a number."""

    def forward(self, x):
        return torch.stack([x.sum(1), (100 - x[:, 0]).sqrt() + x[:, 1]], 1)


def test_an_example_without_numbers_does_not_spoil_the_sums(tmp_path):
    x = torch.rand(8, 3) + 1
    x[4, 0] = 100
    results = run(Explainer(Holed(), "gradient", 1), x, tmp_path / "out", block=3)
    assert not results[4].healthy
    found = results.means(None)
    assert found.counts == (7,)
    slope = (-0.5 / (100 - x[[0, 1, 2, 3, 5, 6, 7], 0]).sqrt()).mean()
    assert torch.allclose(found.signed[0], torch.tensor([slope, 1.0, 0.0]))
    assert 4 not in results.clusters(1).examples


# -- ways that were asked for -------------------------------------------------------------------------------------------------------------


def test_ways_that_a_method_does_not_bear(net, data, tmp_path):
    with pytest.raises(OptionError, match="needs the model as it is"):
        run(Explainer(net, "lrp", 1), data[0], tmp_path / "out", tune=["folded"])
    with pytest.raises(OptionError, match="needs the model as it is"):
        run(Explainer(net, "gradient", 1, layer="1"), data[0], tmp_path / "out", tune=["channels_last"])
    with pytest.raises(OptionError, match="needs the model as it is"):
        run(Explainer(lambda x: net(x), "gradient", 1), data[0], tmp_path / "out", tune=["folded"])
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_configuration_of_wrong_types(tmp_path):
    from typer.testing import CliRunner

    from pellucid.cli import app

    for line, words in {
        'strict = "no"': "strict = 'no'; give true or false",
        "size = 8": "size = 8; give a list",
        "seed = 1.5": "seed = 1.5; give a whole number",
        "options = 3": "options = 3; give a table",
        "tune = 'folded'": "tune = 'folded'; give true or false or a list",
        "model = 3": "model = 3; give a text",
    }.items():
        text = line if line.startswith("model") else f'model = "x:y"\n{line}'
        (tmp_path / "run.toml").write_text(f'{text}\ndata = "in"\nout = "out"\n')
        answer = CliRunner().invoke(app, ["run", str(tmp_path / "run.toml")])
        assert answer.exit_code == 2, line
        assert words in " ".join(answer.output.split()), answer.output


def test_a_store_says_what_it_is(net, data, tmp_path):
    run(Explainer(net, "saliency", 0), data, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert facts["form"] == "(6,) float64"
    assert facts["run"]["structure"]
