"""The facade with InterpretDL's names, as its users call it: files in, numbers and pictures out, nothing kept, clear refusals."""

import inspect
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pellucid.interpretdl as it
from pellucid import FileError, InputError, OptionError, TargetError
from pellucid.gradient import gradient, noise_tunnel
from pellucid.interpretdl.base import Scored
from pellucid.pictures import GREY, IMAGENET, Statistics, pictures, statistics_of
from pellucid.view import at_input
from tests.parity.interpretdl_nets import Cnn, Vit

QUIET = {"visual": False, "resize_to": 32}


@pytest.fixture(scope="module")
def cnn():
    torch.manual_seed(0)
    return Cnn()


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(1)
    arguments = {"picture": 32, "patch": 8} if "picture" in inspect.signature(Vit).parameters else {}
    return Vit(**arguments)


@pytest.fixture
def photo(tmp_path):
    rows, columns = np.indices((40, 56))
    array = np.stack([rows * 6, columns * 4, (rows + columns) * 2], 2).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "photo.png")
    Image.fromarray(array[:, ::-1]).save(tmp_path / "mirrored.png")
    return tmp_path


# Pictures as people have them


def test_every_form_of_a_picture_is_the_same_picture(photo):
    by_path = pictures(photo / "photo.png", None)
    image = Image.open(photo / "photo.png")
    array = np.array(image)
    for other in (str(photo / "photo.png"), image, array, array[None], [array], [image], torch.from_numpy(array), image.convert("RGBA")):
        torch.testing.assert_close(pictures(other, None).tensor, by_path.tensor)
    torch.testing.assert_close(pictures(by_path.tensor).tensor, by_path.tensor)
    assert np.abs(pictures(by_path.tensor).shown.astype(int) - array).max() <= 1
    both = pictures([photo / "photo.png", photo / "mirrored.png"], None)
    torch.testing.assert_close(both.tensor[1], by_path.tensor[0].flip(2))


def test_resizing_and_cropping(photo):
    resized = pictures(photo / "photo.png", 20)
    assert resized.shown.shape == (1, 20, 28, 3)
    assert pictures(photo / "photo.png", 20, 16).shown.shape == (1, 16, 16, 3)
    array = np.array(Image.open(photo / "photo.png")).astype(float)
    assert np.abs(resized.shown[0].astype(float) - array.reshape(20, 2, 28, 2, 3).mean((1, 3))).max() <= 1
    assert pictures(array.astype(np.uint8), 20).shown.shape == (1, 40, 56, 3)  # arrays keep their size


def test_the_models_own_statistics():
    model = nn.Conv2d(3, 1, 1)
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    assert statistics_of(model) == Statistics((0.5,) * 3, (0.25,) * 3)
    assert statistics_of(nn.Conv2d(3, 1, 1)) == IMAGENET
    assert statistics_of(nn.Conv2d(1, 1, 1)) == GREY
    grey = pictures(np.full((4, 4, 3), 51, np.uint8), channels=1)
    torch.testing.assert_close(grey.tensor, torch.full((1, 1, 4, 4), (0.2 - 0.449) / 0.226))
    five = Statistics((0.0,) * 5, (1.0,) * 5)
    assert pictures(torch.zeros(2, 5, 4, 4), statistics=five).tensor.shape == (2, 5, 4, 4)
    opaque = pictures(np.full((4, 4, 4), 51, np.uint8), channels=4)
    torch.testing.assert_close(opaque.tensor, torch.full((1, 4, 4, 4), 0.2))


@pytest.mark.parametrize("wrong", [{"mean": [0.5]}, {"std": [0.5]}, {"mean": [0.5] * 3, "std": [0.5] * 2}, {"mean": [0.5], "std": [0]}])
def test_half_of_the_statistics_is_refused(wrong):
    with pytest.raises(OptionError, match="mean is"):
        pictures(np.zeros((4, 4, 3), np.uint8), **wrong)


def test_pictures_that_are_none(photo):
    (photo / "text.png").write_text("no picture")
    wrong = {
        "is not there": photo / "missing.png", "is a folder": photo, "Pillow": photo / "text.png", "no pictures": [],
        "float64": [np.zeros((4, 4, 3))], "B, 3, H, W": torch.zeros(3, 4, 4),
    }  # fmt: skip
    for words, given in wrong.items():
        with pytest.raises((FileError, InputError), match=words):
            pictures(given)
    with pytest.raises(InputError, match="one size"):
        pictures([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)])
    with pytest.raises(InputError, match="crop_to is 90"):
        pictures(photo / "photo.png", 40, 90)
    with pytest.raises(InputError, match="5 channels"):
        pictures(np.zeros((1, 4, 4, 5), np.uint8))


# Three lines


INTERPRETERS = {
    "SmoothGradInterpreter": {"n_samples": 3},
    "SmoothGradInterpreterV2": {"n_samples": 4},
    "IntGradCVInterpreter": {"steps": 4},
    "GradShapCVInterpreter": {"n_samples": 3},
    "OcclusionInterpreter": {"sliding_window_shapes": (3, 16, 16), "strides": (3, 8, 8)},
    "LIMECVInterpreter": {"num_samples": 60},
    "GLIMECVInterpreter": {"num_samples": 60},
    "LIMEPriorInterpreter": {"num_samples": 60},
    "GradCAMInterpreter": {"target_layer_name": "relu2"},
    "ScoreCAMInterpreter": {"target_layer_name": "relu2"},
    "LRPCVInterpreter": {},
    "RolloutInterpreter": {},
    "TAMInterpreter": {"start_layer": 0, "steps": 3},
    "GACVInterpreter": {"start_layer": 0},
    "BTCVInterpreter": {"start_layer": 0, "steps": 3},
}
TRANSFORMERS = {"RolloutInterpreter", "TAMInterpreter", "GACVInterpreter", "BTCVInterpreter"}


@pytest.mark.parametrize("name", INTERPRETERS)
def test_a_model_an_interpreter_a_file(cnn, vit, photo, name):
    model = vit if name in TRANSFORMERS else cnn
    model.train()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    interpreter = getattr(it, name)(model)
    options = {**QUIET, "crop_to": 32, **INTERPRETERS[name]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = interpreter.interpret(str(photo / "photo.png"), save_path=str(photo / "out" / "seen.png"), **options)
    seen = np.array(Image.open(photo / "out" / "seen.png"))
    assert seen.std() > 5
    assert isinstance(found, dict) or np.isfinite(found).all()
    assert all(m.training for m in model.modules())
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    torch.manual_seed(5)
    once = interpreter.interpret(str(photo / "mirrored.png"), **options)  # another picture: nothing is kept of the first
    torch.manual_seed(5)
    again = getattr(it, name)(model).interpret(str(photo / "mirrored.png"), **options)
    assert once == again if isinstance(once, dict) else np.array_equal(once, again)


@pytest.mark.parametrize("name", [n for n in INTERPRETERS if not n.endswith(("V2", "LIMECVInterpreter", "PriorInterpreter"))])
def test_batch_is_loop(cnn, vit, photo, name):
    model = vit if name in TRANSFORMERS else cnn
    paths = [str(photo / n) for n in ("photo.png", "mirrored.png")]
    options = {**QUIET, "crop_to": 32, **INTERPRETERS[name]}
    torch.manual_seed(3)
    whole = getattr(it, name)(model).interpret(paths, **options)
    for i, path in enumerate(paths):
        alone = getattr(it, name)(model).interpret(path, **options)
        np.testing.assert_allclose(whole[i : i + 1], alone, rtol=1e-4, atol=1e-6)


def test_smoothgrad_is_the_native_one(cnn, photo):
    shown = pictures(photo / "photo.png", 32, 32)
    torch.manual_seed(0)
    found = it.SmoothGradInterpreter(cnn).interpret(str(photo / "photo.png"), [1], 0.2, 6, crop_to=32, **QUIET)
    cnn.eval()
    native = noise_tunnel(at_input(Scored(cnn), shown.tensor, 1), gradient, 6, 0.2, relative=True)
    np.testing.assert_allclose(found, native.values[0][0].numpy(), rtol=1e-5, atol=1e-8)


def test_other_options_take_effect_on_the_same_object(cnn, photo):
    interpreter = it.IntGradCVInterpreter(cnn)
    by = {of: interpreter.interpret(str(photo / "photo.png"), [1], steps=5, gradient_of=of, **QUIET) for of in ("probability", "logit")}
    assert np.abs(by["probability"] - by["logit"]).max() > 1e-6
    cam = it.GradCAMInterpreter(cnn)
    shapes = [cam.interpret(str(photo / "photo.png"), layer, crop_to=32, **QUIET).shape for layer in ("relu1", "relu2")]
    assert shapes == [(1, 32, 32), (1, 16, 16)]


def test_a_consensus_of_models(photo):
    models = [Cnn() for _ in range(3)]
    committee = it.ConsensusInterpreter(it.IntGradCVInterpreter, models)
    found = committee.interpret(str(photo / "photo.png"), labels=[1], steps=4, resize_to=32)
    assert found.shape[0] == 3
    mean, near = committee.agreement(found)
    assert mean.shape == found.shape[2:] or mean.shape[0] == 1
    assert near.shape == (3, 1)
    assert (near <= 1 + 1e-9).all()
    np.testing.assert_allclose(committee.agreement(np.concatenate([found[:1]] * 3))[1], 1)
    with pytest.raises(InputError, match="dict"):
        it.ConsensusInterpreter(it.LIMECVInterpreter, models).interpret(str(photo / "photo.png"), num_samples=10, resize_to=32)
    with pytest.raises(OptionError, match="empty"):
        it.ConsensusInterpreter(it.IntGradCVInterpreter, [])


# LIME's relatives


def test_what_counts_over_many_pictures(cnn, photo):
    paths = [str(photo / n) for n in ("photo.png", "mirrored.png")]
    one = it.NormLIMECVInterpreter(cnn, random_seed=0, clusters=6)
    found = one.interpret(paths, 60, save_path=photo / "weights.npy", resize_to=32)
    assert all(0 <= cluster < 6 and weight >= 0 for own in found.values() for cluster, weight in own.items())
    glime = it.GLIMECVInterpreter(cnn, random_seed=0, clusters=6)
    with pytest.raises(InputError, match="no global weights"):
        glime.interpret(paths[0], prior_method="ridge", **QUIET)
    results = []
    for path in paths:
        lime = it.LIMECVInterpreter(cnn, random_seed=0)
        lime.interpret(path, num_samples=60, **QUIET)
        results.append(lime.lime_results)
    glime.compute_global_weights("avg", results, save_path=photo / "global.npy")
    with_prior = glime.interpret(paths[0], prior_method="ridge", prior_reg_force=1e6, num_samples=60, **QUIET)
    label = next(iter(with_prior))
    clusters = glime.clustered(glime.lime_results["input"], glime.lime_results["segmentation"])
    prior = np.array([glime._global.get(label, {}).get(int(k), 0.0) for k in clusters])
    weights = np.array([dict(with_prior[label])[k] for k in range(len(prior))])
    np.testing.assert_allclose(weights, prior / max(np.abs(prior).sum(), 1e-12), atol=1e-4)  # all but the prior is forgotten
    glime.set_global_weights(photo / "global.npy")
    with pytest.raises(FileError, match="no global weights"):
        glime.set_global_weights(photo / "photo.png")
    fast = it.LIMEPriorInterpreter(cnn, "ridge", random_seed=0, clusters=6)
    fast.interpreter_init(paths, weights_file_path=photo / "fast.npy")
    assert fast.interpret(paths[0], num_samples=60, **QUIET)


def test_lime_finds_what_a_model_looks_at(photo):
    array = np.full((24, 24, 3), 40, np.uint8)
    array[4:12, 4:12] = (250, 30, 30)
    array[4:12:2, 4:12:2] = (90, 30, 30)  # its mean colour has none of the brightest red

    def red(x):
        amount = (x[:, 0] > 2).float().mean((1, 2)) * 20
        return torch.stack([-amount, amount], 1)

    interpreter = it.LIMECVInterpreter(red, random_seed=0)
    ((label, weights),) = interpreter.interpret(array, num_samples=200, visual=False).items()
    assert label == 1
    assert interpreter.lime_results["segmentation"][7, 7] == weights[0][0]
    assert weights[0][1] > 0.05


# Refusals


def test_clear_errors(cnn, vit, photo):
    path = str(photo / "photo.png")
    with pytest.raises(OptionError, match=r"gradient_of is 'chance'.*'probability'"):
        it.IntGradCVInterpreter(cnn).interpret(path, gradient_of="chance", **QUIET)
    with pytest.raises(TargetError, match="label 9 is not a class"):
        it.IntGradCVInterpreter(cnn).interpret(path, [9], **QUIET)
    with pytest.raises(TargetError, match="2 labels for 1"):
        it.IntGradCVInterpreter(cnn).interpret(path, [1, 2], **QUIET)
    with pytest.raises(OptionError, match=r"no layer 'layer4'; give .*'conv1'"):
        it.GradCAMInterpreter(cnn).interpret(path, "layer4", **QUIET)
    with pytest.raises(InputError, match="attend nowhere"):
        it.RolloutInterpreter(cnn).interpret(path, **QUIET)
    with pytest.raises(OptionError, match="2 paths for 1"):
        it.LRPCVInterpreter(cnn).interpret(path, save_path=["a.png", "b.png"], **QUIET)
    with pytest.raises(OptionError, match="start is 30"):
        it.TAMInterpreter(vit).interpret(path, 30, crop_to=32, **QUIET)
    with pytest.raises(InputError, match="one at a time"):
        it.LIMECVInterpreter(cnn).interpret([path, path], **QUIET)
    with pytest.raises(OptionError, match="interpret_class is"):
        it.LIMECVInterpreter(cnn).interpret(path, [7], **QUIET)
    with pytest.raises(OptionError, match="give both"):
        it.LRPCVInterpreter(cnn, mean=[0.5])
    with pytest.raises(InputError, match="the model is str"):
        it.LRPCVInterpreter("resnet50")
    with pytest.raises(OptionError, match="split is 9"):
        it.SmoothGradInterpreterV2(cnn).interpret(path, n_samples=4, split=9, **QUIET)
    with pytest.raises(OptionError, match="'random'"):
        it.IntGradCVInterpreter(cnn).interpret(path, baselines="noise", **QUIET)
    with pytest.raises(OptionError, match=r"save_path is 'seen.xyz'"):
        it.LRPCVInterpreter(cnn).interpret(path, save_path="seen.xyz", **QUIET)


def test_labels_by_name(cnn, photo):
    path, classes = str(photo / "photo.png"), ["ant", "bee", "cat", "dog"]
    named = it.IntGradCVInterpreter(cnn, classes=classes)
    by_name = named.interpret(path, ["cat"], steps=3, **QUIET)
    np.testing.assert_array_equal(by_name, named.interpret(path, [2], steps=3, **QUIET))
    np.testing.assert_array_equal(by_name, named.interpret(path, "cat", steps=3, **QUIET))
    assert list(it.LIMECVInterpreter(cnn, classes=classes).interpret(path, ["dog", "ant"], num_samples=20, **QUIET)) == [3, 0]
    with pytest.raises(TargetError, match="'elk' is not the name of a class; the classes are 'ant'"):
        named.interpret(path, "elk", **QUIET)
    with pytest.raises(TargetError, match="give classes="):
        it.IntGradCVInterpreter(cnn).interpret(path, ["cat"], **QUIET)


# Texts


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        from tests.parity.interpretdl_nets import Text

        self.inner = Text()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        assert attention_mask is None or attention_mask.shape == input_ids.shape
        return {"logits": self.inner(input_ids)}


class Tokenizer:
    """As Hugging Face's: named inputs, in an order that is not the model's."""

    WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "good", "bad", "film", "very")

    def __call__(self, text, max_length=128, truncation=True):
        ids = [*[1, *(self.WORDS.index(w) if w in self.WORDS else 3 for w in text.split())][: max_length - 1], 2]
        return {"input_ids": ids, "token_type_ids": [0] * len(ids), "attention_mask": [1] * len(ids)}

    def convert_ids_to_tokens(self, ids):
        return [self.WORDS[i] for i in ids]


@pytest.fixture(scope="module")
def words():
    torch.manual_seed(2)
    return Words()


TEXTS = {
    "IntGradNLPInterpreter": {"steps": 4},
    "SmoothGradNLPInterpreter": {"n_samples": 3},
    "GANLPInterpreter": {"start_layer": 0},
    "BTNLPInterpreter": {"start_layer": 0, "steps": 3, "embedding_name": "embeddings$"},
    "LIMENLPInterpreter": {"num_samples": 40, "unk_id": 3},
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_sentence_in_a_number_for_every_token_out(words, tmp_path, name):
    interpreter = getattr(it, name)(words)
    found = interpreter.interpret("a very good film", Tokenizer(), save_path=tmp_path / "seen.png", **TEXTS[name])
    assert (tmp_path / "seen.png").stat().st_size > 1000
    tokens = len(next(iter(found.values()))) if isinstance(found, dict) else found.shape[1]
    assert tokens == 6
    by_function = getattr(it, name)(words).interpret(
        "a very good film", text_to_input_fn=lambda text: Tokenizer()(text)["input_ids"], **TEXTS[name]
    )
    if isinstance(found, np.ndarray) and "Smooth" not in name:
        np.testing.assert_allclose(by_function, found, rtol=1e-5)
    with pytest.raises(InputError, match="empty"):
        interpreter.interpret("  ", Tokenizer(), **TEXTS[name])
    with pytest.raises(OptionError, match="one of the two"):
        interpreter.interpret("a film", **TEXTS[name])


def test_other_inputs_go_along_by_position(words):
    def model(ids, types):
        return words(ids)["logits"] + types.sum(1, keepdim=True)

    found = it.LIMENLPInterpreter(model, random_seed=0).interpret(
        "x", text_to_input_fn=lambda _: ([1, 4, 6, 2], [0, 0, 1, 1]), num_samples=30, unk_id=3
    )
    assert len(next(iter(found.values()))) == 4


def test_importance_of_words_over_texts(words, tmp_path):
    texts = ["good film", "very good film", "bad film"]
    found = it.NormLIMENLPInterpreter(words, random_seed=0).interpret(
        texts, num_samples=40, unk_id=3, tokenizer=Tokenizer(), save_path=tmp_path / "w.npy"
    )
    assert {token for own in found.values() for token in own} <= {1, 2, 4, 5, 6, 7}
    assert max(count for own in found.values() for _, count in own.values()) <= 3
    assert (tmp_path / "w.npy").is_file()


def test_gradient_shap_of_texts(words):
    ids = np.array([[1, 4, 6, 2], [1, 5, 6, 2]])
    labels, chances, found = it.GradShapNLPInterpreter(words.inner).interpret(ids)
    assert found.shape == (2, 4)
    assert len(labels) == len(chances) == 2
    assert it.GradShapNLPInterpreter(words.inner).interpret(ids, [1, 1], return_pred=False).shape == (2, 4)


def test_every_name_is_there():
    assert all(inspect.isclass(getattr(it, name)) for name in it.__all__ if name != "visualize_text")
    assert it.__all__ == sorted(it.__all__)


# Paddle


def test_the_same_three_lines_with_a_paddle_model(photo):
    paddle = pytest.importorskip("paddle")
    paddle.seed(0)
    model = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 4, 3), paddle.nn.ReLU(), paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten(), paddle.nn.Linear(4, 3)
    )
    path = str(photo / "photo.png")
    found = it.SmoothGradInterpreter(model).interpret(path, n_samples=4, save_path=str(photo / "seen.png"), **QUIET)
    assert found.shape == (1, 3, 32, 45)
    assert (photo / "seen.png").stat().st_size > 1000
    assert model.training  # Paddle's models begin in train mode, and are explained in eval mode
    kept = it.IntGradCVInterpreter(model).interpret(path, [1], steps=3, gradient_of="logit", **QUIET)
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for own, other in zip(twin.parameters(), model.parameters(), strict=True):
        value = torch.from_numpy(other.numpy())
        own.data = value.T if value.dim() == 2 else value
    np.testing.assert_allclose(kept, it.IntGradCVInterpreter(twin).interpret(path, [1], steps=3, gradient_of="logit", **QUIET), atol=1e-6)
    assert it.LIMECVInterpreter(model, random_seed=0).interpret(path, num_samples=20, **QUIET)
    with pytest.raises(OptionError, match="Paddle"):
        it.GradCAMInterpreter(model).interpret(path, "0", **QUIET)
    with pytest.raises(OptionError, match="Paddle"):
        it.LRPCVInterpreter(model).interpret(path, **QUIET)
    with pytest.raises(OptionError, match="Paddle"):
        it.RolloutInterpreter(model).interpret(path, **QUIET)


# What was found by trying


def test_pictures_that_are_not_square(cnn, photo):
    path = str(photo / "photo.png")
    assert it.GradCAMInterpreter(cnn).interpret(path, "relu1", save_path=str(photo / "g.png"), **QUIET).shape == (1, 32, 45)
    assert it.ScoreCAMInterpreter(cnn).interpret(path, "relu2", **QUIET).shape == (1, 32, 45)


def test_functions_around_modules_are_evaluated_and_left_alone(photo):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model[1].eval()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    path = str(photo / "photo.png")
    by_function = it.IntGradCVInterpreter(lambda x: model(x)).interpret(path, [1], steps=3, **QUIET)
    assert [m.training for m in model] == [True, False, True, True, True, True]
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    np.testing.assert_array_equal(by_function, it.IntGradCVInterpreter(model).interpret(path, [1], steps=3, **QUIET))


def test_arrays_with_opacity_and_other_channels(cnn, photo):
    rgba = np.random.default_rng(0).integers(0, 256, (8, 9, 4), dtype=np.uint8)
    torch.testing.assert_close(pictures(rgba).tensor, pictures(rgba[..., :3]).tensor)
    assert pictures(rgba[..., :2]).tensor.shape == (1, 3, 8, 9)
    five = nn.Sequential(nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    array = np.random.default_rng(1).integers(0, 256, (16, 16, 5), dtype=np.uint8)
    found = it.IntGradCVInterpreter(five).interpret(array, steps=2, save_path=str(photo / "five.png"), visual=False)
    assert found.shape == (1, 5, 16, 16)
    assert it.LIMECVInterpreter(five, random_seed=0).interpret(array, num_samples=10, visual=False)
    with pytest.raises(InputError, match="takes 5"):
        it.IntGradCVInterpreter(five).interpret(str(photo / "photo.png"), visual=False)
    with pytest.raises(InputError, match="holds no picture"):
        pictures(np.zeros((0, 8, 8, 3), np.uint8))
    small = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    tiny = it.IntGradCVInterpreter(small).interpret(rgba[:4, :1, :3], steps=2, save_path=str(photo / "tiny.png"), visual=False)
    assert tiny.shape == (1, 3, 4, 1)


def test_models_in_other_precisions(photo):
    for dtype, expected in ((torch.float64, np.float64), (torch.bfloat16, np.float32)):
        found = it.IntGradCVInterpreter(Cnn().to(dtype)).interpret(str(photo / "photo.png"), [1], steps=2, **QUIET)
        assert found.dtype == expected
        assert np.abs(found).max() > 0


def test_what_says_nothing_is_warned_of(cnn, photo):
    from pellucid import PellucidWarning

    path = str(photo / "photo.png")
    with pytest.warns(PellucidWarning, match="all attributions are zero"):
        it.IntGradCVInterpreter(lambda x: cnn(x).detach()).interpret(path, steps=2, **QUIET)
    with pytest.warns(PellucidWarning, match="NaN or infinite"):
        it.IntGradCVInterpreter(lambda x: cnn(x) * torch.nan).interpret(path, [1], steps=2, **QUIET)
    one = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    with pytest.raises(TargetError, match="no probability"):
        it.IntGradCVInterpreter(one).interpret(path, steps=2, **QUIET)


def test_tokenizers_names_are_kept_whatever_the_order(words):
    from pellucid import PellucidWarning

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = words

        def forward(self, *args, **kwargs):
            return self.inner(*args, **kwargs)

    plain = it.IntGradNLPInterpreter(words).interpret("good film", Tokenizer(), label=[0], steps=3)
    np.testing.assert_array_equal(it.IntGradNLPInterpreter(Wrapped()).interpret("good film", Tokenizer(), label=[0], steps=3), plain)

    class Fewer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = words

        def forward(self, input_ids, attention_mask):
            assert bool(attention_mask.all())
            return self.inner(input_ids, attention_mask)

    with pytest.warns(PellucidWarning, match="token_type_ids"):
        found = it.IntGradNLPInterpreter(Fewer()).interpret("good film", Tokenizer(), label=[0], steps=3)
    np.testing.assert_array_equal(found, plain)


def test_global_weights_know_what_their_features_look_like(cnn, photo):
    paths = [str(photo / n) for n in ("photo.png", "mirrored.png")]
    one = it.GLIMECVInterpreter(cnn, random_seed=0, clusters=5)
    one.compute_global_weights("normlime", list_file_paths=paths, save_path=photo / "g.npy")
    other = it.GLIMECVInterpreter(cnn, random_seed=0, clusters=5)
    with pytest.raises(InputError, match="mean nothing"):
        other.set_global_weights({0: {1: 1.0}})
    other.set_global_weights(photo / "g.npy")
    options = {"prior_method": "ridge", "prior_reg_force": 100.0, "num_samples": 40, **QUIET}
    assert one.interpret(paths[0], **options) == other.interpret(paths[0], **options)
    with pytest.raises(OptionError, match="'none' or 'ridge'"):
        it.LIMEPriorInterpreter(cnn, "cpu")


def test_records_of_texts():
    record = it.VisualizationTextRecord(["a", "<b>", "c"], [0.5, -0.5, 0.0], 1, 0, 0.7, 1)
    page = it.visualize_text([record, record])
    text = page if isinstance(page, str) else page.data
    assert text.count("&lt;b&gt;") == 2
    assert "0 (0.70)" in text
    with pytest.raises(InputError, match="3 words"):
        it.visualize_text([it.VisualizationTextRecord(["a", "b", "c"], [0.5], 1, 0, 0.7, 1)])
