"""Runs InterpretDL 0.8.0 on small random networks and keeps its answers in an npz file.

    OMP_NUM_THREADS=1 python tests/parity/make_interpretdl_numbers.py tests/parity/interpretdl_numbers.npz

Not part of the test run: it needs Python 3.11 and an environment of its own, made by

    pip install paddlepaddle==3.3.1 numpy==1.26.4 scikit-learn==1.1.3 scipy==1.11.4 scikit-image==0.22.0 \
        opencv-python-headless==4.10.0.84 "IPython<9" matplotlib pillow tqdm requests
    pip install --no-deps interpretdl==0.8.0

(InterpretDL asks for scikit-learn <= 0.24, which Python 3.11 has no wheel of; it needs one < 1.2, for `Ridge(normalize=True)`.)

InterpretDL does not run on this PaddlePaddle as it is. Two things are put right here, and no method of its own is changed:

* `paddle.fluid` is gone; empty modules in its place let `import interpretdl` find GLIME, NormLIME and ForgettingEvents.
* PaddlePaddle no longer keeps the gradient of an intermediate tensor; the output of every hooked layer gets `retain_grads()`.

Where a method draws random numbers they are written down as they are drawn. Where it asks for clusters of superpixels (GLIME,
NormLIME), which needs files that can no longer be downloaded, the clusters are given.

In the npz: `<network>/<state_dict key>`, weights as PyTorch lays them out (the networks are in `interpretdl_nets.py`); `in/...`,
what was put in; `out/...`, what InterpretDL returned; `meta`, a JSON string with the arguments of each call and notes.
"""

import contextlib
import json
import os
import sys
import tempfile
import types
import warnings

import cv2
import numpy as np
import paddle
from paddle import nn


def put_right():
    """The two shims of the docstring."""
    fluid = types.ModuleType("paddle.fluid")
    fluid.param_attr = types.ModuleType("paddle.fluid.param_attr")
    fluid.param_attr.ParamAttr = paddle.ParamAttr
    sys.modules["paddle.fluid"] = paddle.fluid = fluid
    sys.modules["paddle.fluid.param_attr"] = fluid.param_attr

    plain = nn.Layer.register_forward_post_hook

    def register(self, hook):
        def keeping(layer, given, returned):
            if isinstance(returned, paddle.Tensor) and not returned.stop_gradient:
                returned.retain_grads()
            changed = hook(layer, given, returned)
            if isinstance(changed, paddle.Tensor) and not changed.stop_gradient:
                changed.retain_grads()
            return changed

        return plain(self, keeping)

    nn.Layer.register_forward_post_hook = register


put_right()

import interpretdl as it  # noqa: E402
from interpretdl.evaluate_interpreter.infidelity import InfidelityNLP  # noqa: E402
from interpretdl.evaluate_interpreter.perturbation import PerturbationNLP  # noqa: E402
from interpretdl.evaluate_models.localization import PointGame, PointGameSegmentation  # noqa: E402
from interpretdl.interpreter import _global_prior_base, _lime_base, _normlime_base, glime  # noqa: E402

QUIET = {"visual": False}
VIT_ATTENTION = "^blocks.[0-9]*.attn.attn_drop$"
VIT_QKV = "^blocks.[0-9]*.attn.qkv$"
VIT_PROJ = "^blocks.[0-9]*.attn.proj$"


# --- The networks, as in interpretdl_nets.py ---------------------------------------------------------------------------------


class Cnn(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2D(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2D(2)
        self.conv2 = nn.Conv2D(6, 8, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AdaptiveAvgPool2D(1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.fc(x.flatten(1))


class Attention(nn.Layer):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape([batch, tokens, 3, self.heads, dim // self.heads]).transpose([2, 0, 3, 1, 4])
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = self.attn_drop(nn.functional.softmax(q @ k.transpose([0, 1, 3, 2]) * self.scale, axis=-1))
        return self.proj((attn @ v).transpose([0, 2, 1, 3]).reshape([batch, tokens, dim]))


class Mlp(nn.Layer):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Layer):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim * 2)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Layer):
    def __init__(self, size=32, patch=8, dim=12, heads=3, depth=3, outputs=4):
        super().__init__()
        self.patch_embed = nn.Conv2D(3, dim, patch, stride=patch)
        self.cls_token = self.create_parameter([1, 1, dim])
        self.pos_embed = self.create_parameter([1, (size // patch) ** 2 + 1, dim])
        self.blocks = nn.LayerList([Block(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose([0, 2, 1])
        x = paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Embeddings(nn.Layer):
    def __init__(self, vocabulary, length, dim):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, dim)
        self.position_embeddings = nn.Embedding(length, dim)

    def forward(self, ids):
        return self.word_embeddings(ids) + self.position_embeddings(paddle.arange(ids.shape[1]))


class Text(nn.Layer):
    def __init__(self, vocabulary=30, length=9, dim=12, heads=3, depth=2, outputs=3):
        super().__init__()
        self.embeddings = Embeddings(vocabulary, length, dim)
        self.blocks = nn.LayerList([Block(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)

    def forward(self, ids):
        x = self.embeddings(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Clip(nn.Layer):
    def __init__(self):
        super().__init__()
        self.visual = Vit(size=28, patch=4, depth=2, outputs=6)
        self.text = Text(length=7, outputs=6)

    def forward(self, image, ids):
        image = nn.functional.normalize(self.visual(image), axis=-1)
        text = nn.functional.normalize(self.text(ids), axis=-1)
        logits = 10.0 * image @ text.T
        return logits, logits.T


NETS = {"cnn": Cnn, "vit": Vit, "vit14": lambda: Vit(size=28, patch=2), "text": Text, "clip": Clip}
# How far apart a network's answers lie; chosen so that no class has all the probability.
HEAD_GAIN = {"cnn": 3.5, "vit": 1.0, "vit14": 1.0, "text": 1.0, "clip": 1.0}


def draw_weights(name, seed):
    """Random weights for the network `name`, by state_dict key, laid out as in PyTorch."""
    random = np.random.default_rng(seed)
    weights = {}
    for key, value in NETS[name]().state_dict().items():
        shape = tuple(value.shape)
        kind = key.split(".")[-2] if "." in key else key
        is_linear = len(shape) == 2 and "embeddings" not in kind
        shape = shape[::-1] if is_linear else shape
        if kind.startswith("norm"):
            drawn = random.normal(1.0 if key.endswith("weight") else 0.0, 0.1, shape)
        elif key.endswith("bias"):
            drawn = random.normal(0.0, 0.1, shape)
        elif "embed" in kind and len(shape) < 4:
            drawn = random.normal(0.0, 0.7, shape)
        elif kind == "cls_token":
            drawn = random.normal(0.0, 1.0, shape)
        else:
            gain = {"qkv": 2.0, "head": HEAD_GAIN[name], "fc": HEAD_GAIN[name]}.get(kind, 1.3)
            drawn = random.normal(0.0, gain / np.sqrt(np.prod(shape[1:])), shape)
        weights[key] = drawn.astype(np.float32)
    return weights


def build(name, weights):
    """A fresh network in eval mode; InterpretDL changes the ones it is given (train mode, hooks left behind)."""
    net = NETS[name]()
    linear = {f"{path}.weight" for path, layer in net.named_sublayers() if isinstance(layer, nn.Linear)}
    for key, value in net.state_dict().items():
        value.set_value(weights[key].T.copy() if key in linear else weights[key])
    net.eval()
    return net


# 1 opens, 2 closes, 0 pads, 3 is unknown.
SENTENCES = {
    "nine tokens": [1, 17, 5, 23, 9, 28, 11, 14, 2],
    "six tokens and padding": [1, 20, 7, 26, 13, 2, 0, 0, 0],
}
CLIP_IDS = np.array([[1, 12, 25, 6, 19, 8, 2]])


class Tokenizer:
    """Looks up the ids of a sentence of this file."""

    pad_token_id = 0
    unk_token_id = 3

    def __call__(self, text, max_seq_len=None):
        return {"input_ids": list(SENTENCES[text])}


# --- What is written down ----------------------------------------------------------------------------------------------------


class Record:
    """The arrays and their meta data; saved after every method, so that a failure loses nothing."""

    def __init__(self, path):
        self.path = path
        self.arrays = {}
        self.meta = {}

    def save(self):
        np.savez_compressed(self.path, meta=np.array(json.dumps(self.meta, indent=1)), **self.arrays)

    def add(self, name, arguments, outputs, inputs=None, note=""):
        """Keep `outputs` as out/<name> (an array) or out/<name>/<key> (a dict), and `inputs` as in/<name>/<key>."""
        if not isinstance(outputs, dict):
            outputs = {"": outputs}
        for key, value in outputs.items():
            self.arrays[f"out/{name}/{key}".rstrip("/")] = np.asarray(value)
        for key, value in (inputs or {}).items():
            self.arrays[f"in/{name}/{key}"] = np.asarray(value)
        self.meta[name] = {"arguments": arguments, "note": note}
        self.save()
        print("kept", name, {key: np.asarray(value).shape for key, value in outputs.items()}, flush=True)


@contextlib.contextmanager
def replaced(owner, **values):
    """Set attributes of `owner` for the length of a `with`."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextlib.contextmanager
def drawn(seed, *names):
    """Seed numpy's global generator; gives lists of what its functions `names` return meanwhile."""
    np.random.seed(seed)
    kept = {name: [] for name in names}

    def keeping(name, function):
        def call(*args, **kwargs):
            kept[name].append(function(*args, **kwargs))
            return kept[name][-1]

        return call

    with replaced(np.random, **{name: keeping(name, getattr(np.random, name)) for name in names}):
        yield kept


@contextlib.contextmanager
def lime_samples():
    """A list that receives (samples, probabilities, distances to the first sample) of every LIME fit."""
    kept = []

    def keeping(function):
        def call(self, *args, **kwargs):
            kept.append(function(self, *args, **kwargs))
            return kept[-1]

        return call

    base = _lime_base.LimeBase
    with replaced(base, _data_labels=keeping(base._data_labels), _data_labels_text=keeping(base._data_labels_text)):
        yield kept


def dense(lime_weights, classes):
    """LIME's {class: [(feature, weight)]} as an array [class, feature], and the order its features were listed in."""
    weights = np.array([[weight for _, weight in sorted(lime_weights[c], key=lambda pair: pair[0])] for c in classes])
    order = np.array([[feature for feature, _ in lime_weights[c]] for c in classes])
    return weights, order


def fit_inputs(kept):
    samples, probabilities, distances = kept
    return {"samples": samples.astype(np.int8), "probabilities": probabilities, "distances": distances}


def normalised(pictures):
    return it.data_processor.readers.preprocess_image(pictures)


def draw_pictures(count, size, seed, grain=12):
    """Blotches of colour with some grain, uint8 NHWC."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(20, 235, (count, 6, 6, 3)).astype(np.float32)
    smooth = np.stack([cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC) for picture in coarse])
    return np.clip(smooth + random.normal(0, grain, smooth.shape), 0, 255).astype(np.uint8)


def draw_blocks(size, seed):
    """Squares of flat colour with next to no grain, uint8 HWC: a picture of few superpixels."""
    random = np.random.default_rng(seed)
    blocks = random.integers(20, 235, (4, 4, 3)).repeat(size // 4, axis=0).repeat(size // 4, axis=1)
    return np.clip(blocks + random.normal(0, 2, blocks.shape), 0, 255).astype(np.uint8)


# --- The methods -------------------------------------------------------------------------------------------------------------


def gradients(record, weights, pictures):
    for of in ("probability", "logit", "loss"):
        arguments = {"inputs": "in/pictures", "labels": [2, 0], "steps": 10, "gradient_of": of}
        interpreter = it.IntGradCVInterpreter(build("cnn", weights["cnn"]), "cpu")
        returned = interpreter.interpret(pictures, labels=[2, 0], steps=10, gradient_of=of, **QUIET)
        record.add(f"intgrad_cv_{of}", arguments, returned, note="cnn; no baselines given: zeros, of the normalised picture")

    interpreter = it.IntGradCVInterpreter(build("vit", weights["vit"]), "cpu")
    returned = interpreter.interpret(pictures, steps=10, **QUIET)
    record.add(
        "intgrad_cv_vit",
        {"inputs": "in/pictures", "labels": None, "steps": 10, "gradient_of": "probability"},
        {"": returned, "labels": interpreter.predicted_label},
        note="vit; labels are the predicted ones",
    )

    interpreter = it.IntGradCVInterpreter(build("cnn", weights["cnn"]), "cpu")
    np.random.seed(1)
    returned = interpreter.interpret(pictures, labels=[2, 0], baselines="random", num_random_trials=2, steps=5, **QUIET)
    record.add(
        "intgrad_cv_random",
        {"inputs": "in/pictures", "labels": [2, 0], "baselines": "random", "num_random_trials": 2, "steps": 5},
        returned,
        {"baselines": interpreter.baselines},
        note="cnn, gradient_of probability; the drawn baselines are [trial, image, C, H, W]",
    )

    arguments = {"inputs": "in/pictures", "labels": [1, 3], "noise_amount": 0.1, "n_samples": 4, "gradient_of": "probability"}
    interpreter = it.SmoothGradInterpreter(build("cnn", weights["cnn"]), "cpu")
    with drawn(2, "normal") as kept:
        returned = interpreter.interpret(pictures, labels=[1, 3], noise_amount=0.1, n_samples=4, **QUIET)
    noise = np.float32(kept["normal"]).reshape(4, 2, 3, 32, 32)
    record.add("smoothgrad_cv", arguments, returned, {"noise": noise}, note="cnn; the noise is [sample, image, C, H, W]")

    arguments = {"inputs": "in/pictures[:1]", "labels": [1], "noise_amount": 0.2, "n_samples": 3, "split": 2}
    interpreter = it.SmoothGradInterpreterV2(build("cnn", weights["cnn"]), "cpu")
    with drawn(3, "normal") as kept:
        returned = interpreter.interpret(pictures[:1], labels=[1], noise_amount=0.2, n_samples=3, split=2, **QUIET)
    noise = np.float32(kept["normal"]).reshape(3, 1, 3, 32, 32)
    record.add("smoothgrad_cv_v2", arguments, returned, {"noise": noise}, note="cnn, gradient_of probability")

    arguments = {"inputs": "in/pictures", "labels": [1, 3], "n_samples": 3, "noise_amount": 0.1, "gradient_of": "probability"}
    interpreter = it.GradShapCVInterpreter(build("cnn", weights["cnn"]), "cpu")
    with drawn(4, "normal", "uniform") as kept:
        returned = interpreter.interpret(pictures, labels=[1, 3], n_samples=3, noise_amount=0.1, **QUIET)
    noise = np.float32(kept["normal"])
    scales = np.float32(kept["uniform"][0]).reshape(2, 3)
    record.add(
        "gradshap_cv",
        arguments,
        returned,
        {"noise": noise, "r": scales},
        note="cnn, zeros for baselines; the noise is [image, sample, C, H, W] and r is [image, sample]",
    )


def occlusion(record, weights, pictures):
    for name, window, strides, labels in (
        ("occlusion", (3, 8, 8), (3, 4, 4), [2, 0]),
        ("occlusion_truncated", (2, 7, 5), (1, 6, 5), None),
    ):
        interpreter = it.OcclusionInterpreter(build("cnn", weights["cnn"]), "cpu")
        returned = interpreter.interpret(
            pictures, sliding_window_shapes=window, strides=strides, labels=labels, perturbations_per_eval=4, **QUIET
        )
        arguments = {"inputs": "in/pictures", "sliding_window_shapes": window, "strides": strides, "labels": labels}
        note = "cnn, baseline zeros; labels None: the predicted ones" + ("; the last windows stick out" if labels is None else "")
        record.add(name, {**arguments, "perturbations_per_eval": 4}, returned, note=note)

    # A baseline that is not zero, one picture for all images.
    base = normalised(np.full((1, 32, 32, 3), 127, np.uint8))[0]
    interpreter = it.OcclusionInterpreter(build("cnn", weights["cnn"]), "cpu")
    returned = interpreter.interpret(pictures, (3, 8, 8), labels=[2, 0], strides=(3, 4, 4), baselines=base, **QUIET)
    record.add(
        "occlusion_baseline",
        {"sliding_window_shapes": [3, 8, 8], "strides": [3, 4, 4], "labels": [2, 0], "baselines": "in/occlusion_baseline/baselines"},
        returned,
        {"baselines": base},
        note="cnn; the baseline is the normalised grey (127, 127, 127)",
    )


def cams(record, weights, pictures):
    for labels in (None, [2, 0]):
        suffix = "" if labels is None else "_labels"
        interpreter = it.GradCAMInterpreter(build("cnn", weights["cnn"]), "cpu")
        returned = interpreter.interpret(pictures, target_layer_name="relu2", label=labels, **QUIET)
        record.add(f"gradcam{suffix}", {"inputs": "in/pictures", "target_layer_name": "relu2", "label": labels}, returned, note="cnn")

        interpreter = it.ScoreCAMInterpreter(build("cnn", weights["cnn"]), "cpu")
        returned = interpreter.interpret(pictures, target_layer_name="relu2", labels=labels, **QUIET)
        record.add(f"scorecam{suffix}", {"inputs": "in/pictures", "target_layer_name": "relu2", "labels": labels}, returned, note="cnn")


def lime(record, weights, picture):
    record.arrays["in/picture_lime"] = picture
    classes = [0, 1, 2, 3]
    interpreter = it.LIMECVInterpreter(build("cnn", weights["cnn"]), "cpu", random_seed=7)
    with lime_samples() as kept:
        returned = interpreter.interpret(picture, interpret_class=classes, num_samples=100, batch_size=32, **QUIET)
    dense_weights, order = dense(returned, classes)
    results = interpreter.lime_results
    record.add(
        "lime_cv",
        {"data": "in/picture_lime", "interpret_class": classes, "num_samples": 100, "batch_size": 32, "random_seed": 7},
        {
            "weights": dense_weights,
            "order": order,
            "r2_scores": [results["r2_scores"][c] for c in classes],
            "probability": [results["probability"][c] for c in classes],
        },
        {"segmentation": results["segmentation"].astype(np.int16), **fit_inputs(kept[0])},
        note="cnn; weights [class, superpixel]; order [class, rank], by falling |weight|; fill of a superpixel: its mean colour, uint8",
    )

    # GLIME's local fit, from given global weights and given clusters of the superpixels.
    count = dense_weights.shape[1]
    random = np.random.default_rng(8)
    clusters = random.integers(0, 5, count)
    global_weights = {c: {int(k): float(random.uniform(0, 0.2)) for k in range(4)} for c in classes}  # cluster 4: never seen
    for method, force in (("none", 1.0), ("ridge", 2.5)):
        interpreter = it.GLIMECVInterpreter(build("cnn", weights["cnn"]), "cpu")
        interpreter.lime_base.random_state = np.random.RandomState(9)
        interpreter.set_global_weights(global_weights)
        with lime_samples() as kept, replaced(_global_prior_base, get_cluster_label=lambda image, segments: clusters):
            returned = interpreter.interpret(
                picture, interpret_class=2, prior_method=method, prior_reg_force=force, num_samples=100, **QUIET
            )
        dense_weights, order = dense(returned, [2])
        record.add(
            f"glime_cv_{method}",
            {"data": "in/picture_lime", "interpret_class": 2, "prior_method": method, "prior_reg_force": force, "num_samples": 100},
            {"weights": dense_weights[0], "order": order[0], "r2_score": interpreter.lime_results["r2_scores"][2]},
            {
                "segmentation": interpreter.lime_results["segmentation"].astype(np.int16),
                "clusters": clusters,
                "global_weights": [global_weights[2].get(k, 0.0) for k in range(5)],
                **fit_inputs(kept[0]),
            },
            note="cnn; clusters and global weights (by cluster; class 2) were given, not found; `none` uses neither",
        )
    return results


def lime_text(record, weights):
    for name, sentence in (("lime_nlp", "nine tokens"), ("lime_nlp_padded", "six tokens and padding")):
        classes = np.array([0, 1, 2])
        interpreter = it.LIMENLPInterpreter(build("text", weights["text"]), "cpu", random_seed=10)
        with lime_samples() as kept:
            returned = interpreter.interpret(sentence, tokenizer=Tokenizer(), classes_to_interpret=classes, num_samples=100)
        dense_weights, _ = dense(returned, classes)
        record.add(
            name,
            {"ids": SENTENCES[sentence], "unk_id": 3, "pad_id": 0, "num_samples": 100, "random_seed": 10},
            {"weights": dense_weights, "r2_scores": [interpreter.lime_results["r2_scores"][c] for c in classes]},
            fit_inputs(kept[0]),
            note="text; weights [class, position], positions before the first padding only",
        )


def lime_solves(record):
    """The parts of the LIME family that need no network."""
    random = np.random.default_rng(11)
    base = _lime_base.LimeBase()
    samples = random.integers(0, 2, (60, 9))
    samples[0] = 1
    answers = random.uniform(0, 1, (60, 2))
    distances = 1 - samples.sum(1) / np.sqrt(np.maximum(samples.sum(1), 1) * 9)
    prior = random.normal(0, 1, 9)
    outputs = {}
    for name, given, force in (("zero", np.zeros(9), 1.0), ("prior", prior, 1.0), ("strong", prior, 10.0), ("scaled", prior, 0.5)):
        scale = 2.0 if name == "scaled" else 1.0
        _, pairs, score, _ = base._fitting_data_with_prior(samples, answers.copy(), distances, 1, given, scale, force)
        outputs[name] = [weight for _, weight in sorted(pairs, key=lambda pair: pair[0])]
        outputs[f"{name}_r2"] = score
    _, pairs, score, _ = base._fitting_data(samples, answers, distances, 1, ordered=False)
    outputs["lime"] = [weight for _, weight in pairs]
    outputs["lime_r2"] = score
    record.add(
        "lime_solve",
        {
            "zero": {"prior": "zeros", "reg_force": 1.0, "prior_scale": 1.0},
            "prior": {"prior": "in/lime_solve/prior", "reg_force": 1.0, "prior_scale": 1.0},
            "strong": {"prior": "in/lime_solve/prior", "reg_force": 10.0, "prior_scale": 1.0},
            "scaled": {"prior": "in/lime_solve/prior", "reg_force": 0.5, "prior_scale": 2.0},
            "lime": "_fitting_data, no prior",
            "label": 1,
        },
        outputs,
        {"samples": samples.astype(np.int8), "answers": answers, "distances": distances, "prior": prior},
        note="LimeBase._fitting_data_with_prior and _fitting_data; distances are arbitrary numbers here",
    )

    # Hand-made LIME results of six images; the clusters of their superpixels are given.
    images, features, kinds = 6, 8, 5
    clusters = random.integers(0, kinds, (images, features))
    made = random.normal(0, 0.3, (images, features))
    labels = np.array([0, 0, 1, 1, 1, 0])
    results = [
        {
            "input": np.full((4, 8, 3), i, np.uint8),
            "segmentation": np.repeat(np.arange(8)[None], 4, axis=0),
            "lime_weights": {int(labels[i]): [(j, made[i, j]) for j in np.argsort(-np.abs(made[i]))]},
        }
        for i in range(images)
    ]

    def table(answer, pick=float):
        found = np.full((2, kinds), np.nan)
        for c, by_cluster in answer.items():
            for k, value in by_cluster.items():
                found[c, k] = pick(value)
        return found

    outputs = {}
    for name in ("normlime", "avg", "square"):
        interpreter = it.GLIMECVInterpreter(nn.Identity(), "cpu")
        with replaced(glime, get_cluster_label=lambda image, segments: clusters[image.flat[0]]):
            outputs[name] = table(interpreter.compute_global_weights(name, list_of_lime_explanations=results))

    class Clusters:
        turn = 0

        def predict(self, features):
            self.turn += 1
            return clusters[self.turn - 1]

    paths = [f"image {i}" for i in range(images)]
    with (
        tempfile.TemporaryDirectory() as folder,
        replaced(
            _normlime_base,
            get_pre_models=lambda: (None, None),
            load_pickle_file=lambda path: Clusters(),
            FeatureExtractor=lambda: types.SimpleNamespace(forward=lambda image: np.zeros((1, 4, 8), np.float32)),
            extract_superpixel_features=lambda features, segments: None,
        ),
    ):
        known = os.path.join(folder, "lime.npz")
        np.savez(known, **dict(zip(paths, results, strict=True)))
        interpreter = it.NormLIMECVInterpreter(nn.Identity(), "cpu")
        answer = interpreter.interpret(paths, save_path=os.path.join(folder, "a.npy"), temp_data_file=known)
        outputs["normlime_cv"] = table(answer)
    record.add(
        "global_weights",
        {"images": images, "superpixels": features, "clusters": kinds},
        outputs,
        {"lime_weights": made, "labels": labels, "clusters": clusters},
        note="[class, cluster], nan where never seen. GLIME.compute_global_weights with each g_name; normlime_cv: NormLIMECVInterpreter",
    )

    # NormLIMENLP on hand-made results of texts.
    texts = [f"text {i}" for i in range(images)]
    with tempfile.TemporaryDirectory() as folder:
        known = os.path.join(folder, "lime.npz")
        np.savez(known, **dict(zip(texts, results, strict=True)))
        answer = it.NormLIMENLPInterpreter(nn.Identity(), "cpu").interpret(
            texts, None, 1, 1, save_path=os.path.join(folder, "a.npy"), temp_data_file=known
        )
    kinds = features
    record.add(
        "normlime_nlp",
        {"texts": images, "tokens": features},
        {"weights": table(answer, lambda pair: pair[0]), "counts": table(answer, lambda pair: pair[1])},
        note="[class, position] from in/global_weights/lime_weights and labels; nan where no weight was positive",
    )

    seen = random.integers(0, 2, (12, 6)).astype(float)
    answers = random.dirichlet(np.ones(3), 12)
    found = _global_prior_base.ridge_regressor(seen, answers, softmax=False)
    record.add(
        "fast_normlime",
        {"softmax": False},
        np.array([[found[c][k] for k in range(6)] for c in range(3)]),
        {"seen": seen, "probabilities": answers},
        note="ridge_regressor of LIMEPrior's global prior: [class, cluster] from which clusters each image has",
    )


def transformers(record, weights, pictures):
    note = "vit14: InterpretDL reshapes to 14 x 14, so 28 x 28 pictures in patches of 2"
    for start in (0, 1):
        interpreter = it.RolloutInterpreter(build("vit14", weights["vit14"]), "cpu")
        returned = interpreter.interpret(pictures, start_layer=start, **QUIET)
        record.add(f"rollout_{start}", {"inputs": "in/pictures14", "start_layer": start}, returned, note=note)

    for start, label in ((0, None), (1, [2, 3])):
        interpreter = it.TAMInterpreter(build("vit14", weights["vit14"]), "cpu")
        returned = interpreter.interpret(pictures, start_layer=start, steps=5, label=label, **QUIET)
        record.add(f"tam_{start}", {"inputs": "in/pictures14", "start_layer": start, "steps": 5, "label": label}, returned, note=note)

    one = {"inputs": "in/pictures14[:1]"}
    for start, label, of in ((0, None, "probability"), (1, [2], "logit")):
        interpreter = it.GACVInterpreter(build("vit14", weights["vit14"]), "cpu")
        returned = interpreter.interpret(pictures[:1], start_layer=start, label=label, gradient_of=of, **QUIET)
        record.add(f"ga_cv_{start}", {**one, "start_layer": start, "label": label, "gradient_of": of}, returned, note=note)

    for mode, start, label, of in (
        ("head", 0, None, "probability"),
        ("head", 1, [2], "logit"),
        ("token", 0, None, "probability"),
        ("token", 1, [2], "logit"),
    ):
        interpreter = it.BTCVInterpreter(build("vit14", weights["vit14"]), "cpu")
        arguments = {"ap_mode": mode, "start_layer": start, "steps": 5, "gradient_of": of, "label": label}
        returned = interpreter.interpret(pictures[:1], **arguments, **QUIET)
        outputs = {"": returned, "ap": interpreter.ap[0, 0], "rf": interpreter.rf[0, 0]}
        record.add(f"bt_cv_{mode}_{start}", {**one, **arguments}, outputs, note=f"{note}; ap and rf: row 0, all 197 tokens")


def texts(record, weights):
    sentence = "nine tokens"
    given = {"ids": SENTENCES[sentence]}
    for of, label in (("logit", None), ("probability", [2])):
        interpreter = it.IntGradNLPInterpreter(build("text", weights["text"]), "cpu")
        arguments = {"label": label, "steps": 10, "gradient_of": of, "embedding_name": "word_embeddings"}
        returned = interpreter.interpret(sentence, tokenizer=Tokenizer(), **arguments)
        record.add(f"intgrad_nlp_{of}", {**given, **arguments}, returned, note="text; [1, token, dim]")

    normal, kept = paddle.normal, []

    def keeping(*args, **kwargs):
        kept.append(normal(*args, **kwargs))
        return kept[-1]

    paddle.seed(12)
    interpreter = it.SmoothGradNLPInterpreter(build("text", weights["text"]), "cpu")
    arguments = {"label": [1], "noise_amount": 2.0, "n_samples": 4, "gradient_of": "probability"}
    with replaced(paddle, normal=keeping):
        returned = interpreter.interpret(sentence, tokenizer=Tokenizer(), **arguments)
    noise = np.stack([value.numpy() for value in kept])
    note = "text; noise [sample]: one number per sample, added to every element of the word embeddings"
    record.add("smoothgrad_nlp", {**given, **arguments}, returned, {"noise": noise}, note=note)

    for start, of in ((0, "logit"), (1, "probability")):
        interpreter = it.GANLPInterpreter(build("text", weights["text"]), "cpu")
        arguments = {"start_layer": start, "attn_map_name": VIT_ATTENTION, "gradient_of": of}
        returned = interpreter.interpret(sentence, tokenizer=Tokenizer(), **arguments)
        record.add(f"ga_nlp_{start}", {**given, **arguments}, returned, note="text; the predicted class (label is ignored)")

    for mode, start, label, of in (("head", 0, None, "logit"), ("head", 1, [0], "probability"), ("token", 0, [0], "logit")):
        interpreter = it.BTNLPInterpreter(build("text", weights["text"]), "cpu")
        arguments = {
            "label": label,
            "ap_mode": mode,
            "start_layer": start,
            "steps": 5,
            "embedding_name": "^embeddings$",
            "attn_map_name": VIT_ATTENTION,
            "attn_v_name": VIT_QKV,
            "attn_proj_name": VIT_PROJ,
            "gradient_of": of,
        }
        returned = interpreter.interpret(sentence, tokenizer=Tokenizer(), **arguments)
        outputs = {"": returned, "ap": interpreter.ap, "rf": interpreter.rf}
        record.add(f"bt_nlp_{mode}_{start}", {**given, **arguments}, outputs, note="text; the embedding block's output is scaled")


def clip(record, weights, pictures):
    for start, start_text in ((0, 1), (1, 0)):
        interpreter = it.GAInterpreter(build("clip", weights["clip"]), "cpu")
        arguments = {
            "vis_attn_layer_pattern": "^visual.blocks.[0-9]*.attn.attn_drop$",
            "txt_attn_layer_pattern": "^text.blocks.[0-9]*.attn.attn_drop$",
            "start_layer": start,
            "start_layer_text": start_text,
        }
        text, image = interpreter.interpret(pictures[:1], "", CLIP_IDS, **arguments, **QUIET)
        record.add(
            f"ga_clip_{start}",
            {"image_input": "in/pictures14[:1]", "text_tokenized": "in/clip_ids", **arguments},
            {"text": text, "image": image},
            note="clip; text is the whole [1, T, T] matrix, image 7 x 7; gradient of the one pair's logit",
        )


def evaluators(record, weights, pictures, lime_results):
    explanation = record.arrays["out/intgrad_cv_probability"][:1]
    plane = np.abs(record.arrays["out/gradcam"][0])
    block = record.arrays["in/picture_lime"][None]
    for name, given, source, limit in (
        ("", explanation, "out/intgrad_cv_probability[:1]", None),
        ("_limit", explanation, "out/intgrad_cv_probability[:1]", 7),
        ("_coarse", plane, "out/gradcam[0]", 10),
        ("_lime", lime_results, "out/lime_cv (class 0) with in/lime_cv/segmentation", None),
        ("_lime_limit", lime_results, "out/lime_cv (class 0) with in/lime_cv/segmentation", 6),
    ):
        shown = block if "lime" in name else pictures[:1]
        place = "in/picture_lime" if "lime" in name else "in/pictures[:1]"
        arguments = {"img_path": place, "explanation": source, "limit_number_generated_samples": limit}
        results = it.Perturbation(build("cnn", weights["cnn"]), "cpu").evaluate(
            shown, given, batch_size=8, limit_number_generated_samples=limit
        )
        keys = ("MoRF_score", "MoRF_probas", "LeRF_score", "LeRF_probas")
        record.add(f"perturbation{name}", arguments, {key: results[key] for key in keys}, note="cnn")
        results = it.DeletionInsertion(build("cnn", weights["cnn"]), "cpu").evaluate(
            shown, given, batch_size=8, limit_number_generated_samples=limit
        )
        keys = ("deletion_score", "del_probas", "insertion_score", "ins_probas")
        record.add(f"deletion_insertion{name}", arguments, {key: results[key] for key in keys}, note="cnn")

    large = draw_pictures(1, 64, seed=13)
    random = np.random.default_rng(14)
    fine, coarse = random.normal(0, 1, (64, 64)), random.uniform(0, 1, (16, 16))
    for name, given in (("", fine.astype(np.float32)), ("_coarse", coarse.astype(np.float32))):
        evaluator = it.Infidelity(build("cnn", weights["cnn"]), "cpu")
        value = evaluator.evaluate(large, given)
        record.add(
            f"infidelity{name}",
            {"img_path": "in/infidelity/picture", "explanation": f"in/infidelity{name}/explanation"},
            {"": value, "difference": evaluator.results["proba_diff"]},
            {"picture": large, "explanation": given} if not name else {"explanation": given},
            note="cnn on 64 x 64; difference: of the predicted class's logit, one per window (25 of 32 x 32, then 1 of 64 x 64)",
        )

    given = random.normal(0, 1, 9)
    evaluator = InfidelityNLP(build("text", weights["text"]), "cpu")
    value = evaluator.evaluate("nine tokens", given, Tokenizer())
    record.add(
        "infidelity_nlp",
        {"ids": SENTENCES["nine tokens"], "explanation": "in/infidelity_nlp/explanation", "is_random_samples": False},
        {"": value, "difference": evaluator.results["proba_diff"], "masked": evaluator.results["Is"]},
        {"explanation": given},
        note="text; difference of the predicted class's probability; masked [sample, token]: where the pad id was put",
    )

    keys = ("precision", "recall", "f1_score", "auc_score", "ap_score")
    shown = random.uniform(0, 1, (20, 24))
    shown[4:12, 6:15] += 0.4
    scores = PointGame().evaluate((5, 3, 16, 11), shown, threshold=0.6)
    record.add(
        "point_game",
        {"bbox": [5, 3, 16, 11], "exp_array": "in/point_game/map", "threshold": 0.6},
        {key: scores[key] for key in keys},
        {"map": shown},
        note="bbox is x1, y1, x2, y2, half open",
    )
    truth = (np.add.outer((np.arange(20) - 8) ** 2, (np.arange(24) - 10) ** 2) < 30).astype(np.uint8)
    scores = PointGameSegmentation().evaluate(truth, shown)
    record.add(
        "point_game_segmentation",
        {"seg_gt": "in/point_game_segmentation/truth", "exp_array": "in/point_game/map", "threshold": 0.25},
        {key: scores[key] for key in keys},
        {"truth": truth},
    )


def datasets(record):
    random = np.random.default_rng(15)
    count, epochs, labels = 200, 40, 5
    right = random.uniform(size=(count, epochs)) > 0.02
    right[50:60] = random.uniform(size=(10, epochs)) > 0.5  # often forgotten
    right[60:64] = False  # never learnt
    right[[64, 65]] = np.arange(epochs) >= np.array([[37], [36]])  # learnt at the very end: the noisy ones
    targets = random.integers(0, labels, count)
    wrong = (targets[:, None] + random.integers(1, labels, (count, epochs))) % labels
    predicted = np.where(right, targets[:, None], wrong)
    stats = {i: [list(right[i].astype(int)), list(predicted[i])] for i in range(count)}
    interpreter = it.ForgettingEventsInterpreter(None, "cpu")
    by_count, forgotten = interpreter.compute_and_order_forgetting_stats(stats, epochs)
    counts = np.zeros(count, int)
    for value, members in by_count.items():
        counts[members] = value
    lengths = np.array([len(forgotten[i]) for i in range(count)])
    record.add(
        "forgetting_events",
        {"epochs": epochs},
        {
            "counts": counts,
            "forgotten": np.concatenate([forgotten[i] for i in range(count)]).astype(np.int8),
            "forgotten_lengths": lengths,
            "noisy": interpreter.find_noisy_labels(stats),
        },
        {"right": right, "predicted": predicted.astype(np.int8), "targets": targets.astype(np.int8)},
        note="counts: events per sample, -1 if never right; forgotten: the lists of all samples one after another; noisy: ids, worst first",
    )

    history = random.dirichlet(np.ones(4), (6, 7))
    targets = random.integers(0, 4, 6)
    dynamics = it.TrainingDynamics(None, "cpu")
    dynamics.transform({i: history[i].copy() for i in range(6)}, targets)
    record.add(
        "training_dynamics",
        {},
        {"dynamics": dynamics.training_dynamics, "labels": dynamics.labels},
        {"history": history, "targets": targets},
        note="TrainingDynamics.transform, [sample, epoch, class]; float16",
    )


def broken(record, weights, pictures):
    """What cannot be run in 0.8.0, with what it says."""
    cnn, text = build("cnn", weights["cnn"]), build("text", weights["text"])
    ids = np.array([SENTENCES["nine tokens"]])
    # Some fail before they look at what they are given.
    attempts = {
        "GradShapNLPInterpreter": lambda: it.GradShapNLPInterpreter(text, "cpu").interpret(ids),
        "PerturbationNLP": lambda: PerturbationNLP(text, "cpu"),
        "DeletionInsertion(compute_insertion=False)": lambda: it.DeletionInsertion(cnn, "cpu", compute_insertion=False),
        "IntGradCVInterpreter(baselines=array)": lambda: it.IntGradCVInterpreter(cnn, "cpu").interpret(
            pictures, baselines=np.zeros((1, 2, 3, 32, 32), np.float32), **QUIET
        ),
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            said[name] = "ran"
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"[:300]
    record.meta["does not run"] = said
    record.save()
    print(json.dumps(said, indent=1))


def main(path):
    warnings.filterwarnings("ignore")
    paddle.set_device("cpu")
    record = Record(path)
    weights = {name: draw_weights(name, seed) for seed, name in enumerate(NETS, 100)}
    for name, values in weights.items():
        record.arrays.update({f"{name}/{key}": value for key, value in values.items()})

    pictures = draw_pictures(2, 32, seed=0)
    pictures14 = draw_pictures(2, 28, seed=5)
    record.arrays.update({"in/pictures": pictures, "in/pictures_normalised": normalised(pictures)})
    record.arrays.update({"in/pictures14": pictures14, "in/pictures14_normalised": normalised(pictures14)})
    ids = np.array(list(SENTENCES.values()))
    record.arrays["in/ids"] = ids
    record.arrays["in/clip_ids"] = CLIP_IDS
    with paddle.no_grad():
        for name, given in (
            ("cnn", [normalised(pictures)]),
            ("vit", [normalised(pictures)]),
            ("vit14", [normalised(pictures14)]),
            ("text", [ids]),
            ("clip", [normalised(pictures14), CLIP_IDS]),
        ):
            logits = build(name, weights[name])(*map(paddle.to_tensor, given))
            logits = (logits[0] if name == "clip" else logits).numpy()
            record.add(f"logits_{name}", {}, logits, note="PaddlePaddle's own answer, to check the twin by")
            print(np.round(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 3))

    gradients(record, weights, pictures)
    occlusion(record, weights, pictures)
    cams(record, weights, pictures)
    lime_results = lime(record, weights, draw_blocks(32, seed=6))
    lime_text(record, weights)
    lime_solves(record)
    transformers(record, weights, pictures14)
    texts(record, weights)
    clip(record, weights, pictures14)
    evaluators(record, weights, pictures, lime_results)
    datasets(record)
    broken(record, weights, pictures)


if __name__ == "__main__":
    main(sys.argv[1])
