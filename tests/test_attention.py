"""Attention maps: read at the operation however it is spelled, against slow re-implementations with explicit attention."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pellucid
from pellucid import InputError, OptionError
from pellucid.attention import ATTENTION_MAPS, attention_map, attentions
from pellucid.inside import at_layer
from pellucid.view import at_input

HEADS, WIDE, DEEP, GRID = 2, 8, 3, 3


def by_softmax(q, k, v):
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


def by_function(q, k, v):
    weights = F.dropout(F.softmax(torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5, dim=-1), 0.1, training=False)
    return torch.matmul(weights, v)


def by_einsum(q, k, v):
    weights = torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5, dim=3)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def by_bmm(q, k, v):
    b, h, n, d = q.shape
    q, k, v = (t.reshape(b * h, n, d) for t in (q, k, v))
    return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) / d**0.5, -1), v).view(b, h, n, d)


def fused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


SPELLINGS = {f.__name__: f for f in (by_softmax, by_function, by_einsum, by_bmm, fused)}


class Block(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.norm1, self.qkv, self.proj = nn.LayerNorm(WIDE), nn.Linear(WIDE, 3 * WIDE), nn.Linear(WIDE, WIDE)
        self.norm2, self.mlp = nn.LayerNorm(WIDE), nn.Sequential(nn.Linear(WIDE, 16), nn.GELU(), nn.Linear(16, WIDE))
        self.attend, self.seen, self.before, self.mixed = attend, None, None, None

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        if self.attend is None:  # the slow way: everything is kept
            self.seen = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
            self.before, self.mixed = x, v
            mixed = self.seen @ v
        else:
            mixed = self.attend(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """A small vision transformer that reads its first token, or the mean of all."""

    def __init__(self, attend=None, pool="token"):
        super().__init__()
        self.patch, self.cls = nn.Conv2d(1, WIDE, 4, 4), nn.Parameter(torch.randn(1, 1, WIDE))
        self.place = nn.Parameter(torch.randn(1, GRID * GRID + 1, WIDE))
        self.blocks = nn.ModuleList(Block(attend) for _ in range(DEEP))
        self.head, self.pool = nn.Linear(WIDE, 4), pool

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0] if self.pool == "token" else x.mean(1))


@pytest.fixture(scope="module")
def slow():
    torch.manual_seed(0)
    return Vit().double().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(1)).double()


def like(slow, attend, pool="token"):
    model = Vit(attend, pool).double().eval()
    model.load_state_dict(slow.state_dict())
    return model


def explicit(model, x, target):
    """Attentions and their gradients, `(B, H, N, N)` each, kept by the model itself."""
    score = model(x)[:, target].sum()
    chances = [block.seen for block in model.blocks]
    return [c.detach() for c in chances], [g.detach() for g in torch.autograd.grad(score, chances)]


def oracle(kind, model, x, target, start, steps, path="head", rows=0):
    """Example by example, layer by layer, head by head, as the papers write it."""
    found = []
    for i in range(len(x)):
        one = x[i : i + 1]
        chances, gradients = ([t[0] for t in part] for part in explicit(model, one, target))
        projected = [(b.mixed.detach()[0].transpose(0, 1).flatten(1) @ b.proj.weight.detach().T).norm(dim=1) for b in model.blocks]
        before = [b.before.detach()[0].norm(dim=1) for b in model.blocks]
        n = chances[0].shape[-1]
        feedback = torch.zeros(n, n).double()
        average = sum(explicit(model, one * a, target)[1][-1][0] for a in torch.linspace(0, 1, steps).tolist()) / steps
        for head in average:
            feedback += head.clamp(min=0) / HEADS
        total = torch.eye(n).double()
        for layer in range(start, DEEP):
            a, g = chances[layer], gradients[layer]
            if kind == "rollout":
                own = sum(a) / HEADS + torch.eye(n)
                total = own / own.sum(1, keepdim=True) @ total
            elif kind == "generic_attention":
                total = total + sum((a[h] * g[h]).clamp(min=0) for h in range(HEADS)) / HEADS @ total
            elif kind == "generic_attention_interpretdl":
                total = total + (sum(a) / HEADS * (sum(g) / HEADS)).clamp(min=0) @ total
            elif kind == "bidirectional_attention" and path == "head":
                weight = torch.stack([(a[h].T @ g[h]).abs().mean() for h in range(HEADS)])
                total = total + sum(weight[h] / weight.sum() * a[h] for h in range(HEADS)) @ total
            elif kind == "bidirectional_attention":
                total = total + sum(a) / HEADS @ torch.diag(projected[layer] / before[layer]) @ total
        if kind.startswith("generic_attention"):
            total = total - torch.eye(n)
        if kind == "transition_attention":
            total = sum(chances[-1]) / HEADS
            for layer in range(DEEP - 2, start - 1, -1):
                total = total @ (sum(chances[layer]) / HEADS) + total
        if kind in ("transition_attention", "bidirectional_attention"):
            total = total * feedback
        found.append(total.mean(0) if rows == "mean" else total[rows])
    return torch.stack(found)


CASES = [(kind, "head") for kind in ATTENTION_MAPS] + [("bidirectional_attention", "token")]


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize(("kind", "path"), CASES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_maps_are_those_of_explicit_attention(slow, x, spelling, kind, path, start):
    model = like(slow, SPELLINGS[spelling])
    found = attention_map(at_input(model, x, 2), kind, start=start, steps=4, path=path, resize=False)
    expected = oracle(kind, slow, x, 2, start, 4, path)
    torch.testing.assert_close(found.values[0][0].flatten(1), expected[:, 1:])
    assert found.values[0].shape == (1, 3, 1, GRID, GRID)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_rows_are_those_that_the_score_reads(slow, x):
    pooled = like(slow, by_softmax, "mean")
    for kind in ("rollout", "generic_attention", "bidirectional_attention"):
        found = attention_map(at_input(pooled, x, 1), kind, steps=3, resize=False).values[0][0].flatten(1)
        plain = like(slow, None, "mean")
        torch.testing.assert_close(found, oracle(kind, plain, x, 1, 0, 3, rows="mean")[:, 1:])
        asked = attention_map(at_input(pooled, x, 1), kind, steps=3, rows="mean", resize=False).values[0][0].flatten(1)
        torch.testing.assert_close(found, asked)
        fifth = attention_map(at_input(pooled, x, 1), kind, steps=3, rows=5, resize=False).values[0][0].flatten(1)
        torch.testing.assert_close(fifth, oracle(kind, plain, x, 1, 0, 3, rows=5)[:, 1:])


@pytest.mark.parametrize("kind", ATTENTION_MAPS)
def test_batch_is_loop_and_the_model_is_unchanged(slow, x, kind):
    model = like(slow, fused)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    whole = pellucid.explain(model, x, 2, kind)
    assert whole.attribution.shape == x.shape
    assert whole.healthy
    for i in range(3):
        alone = pellucid.explain(model, x[i : i + 1], 2, kind)
        torch.testing.assert_close(whole.attribution[i : i + 1], alone.attribution)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    several = pellucid.explain_each(model, x, [0, 2], kind)
    torch.testing.assert_close(several[1].attribution, whole.attribution)
    whole.draw()


def test_frozen_models_and_ids():
    torch.manual_seed(0)

    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.block, self.out = nn.Embedding(20, WIDE), Block(fused), nn.Linear(WIDE, 3)

        def forward(self, ids):
            return self.out(self.block(self.words(ids))[:, -1])

    model, ids = Text().eval().requires_grad_(False), torch.randint(0, 20, (2, 6))
    found = pellucid.explain(model, ids, 1, "generic_attention", names=list("abcdef"))
    assert found.attribution.shape == (2, 6)
    assert found.attribution.any()
    with pytest.raises(InputError, match="token ids"):
        pellucid.explain(model, ids, 1, "transition_attention")
    at_words = pellucid.explain(model, ids, 1, "transition_attention", layer="words")
    assert at_words.attribution.shape == (2, 6, 1)
    view = at_layer(at_input(model, ids, 1), "words")
    torch.testing.assert_close(attention_map(view, "generic_attention").values[0][0, ..., 0], found.attribution)
    found.draw()


def test_torchs_own_encoder_is_read_like_ours():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDE, HEADS, 16, batch_first=True).double().eval()
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(5 * WIDE, 3).double()).eval()
    x = torch.randn(2, 5, WIDE).double()
    seen = attentions(at_input(model, x, 0))
    assert [a.name for a in seen.found] == ["0.layers.0.self_attn", "0.layers.1.self_attn"]
    q = layer.self_attn
    first = model[0].layers[0]
    _, weights = first.self_attn(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(seen.found[0].chances, weights.detach())
    torch.testing.assert_close(seen.found[0].before, x)
    assert torch.equal(seen.found[0].weight, first.self_attn.out_proj.weight)
    assert q is not None
    assert pellucid.explain(model, x, 0, "bidirectional_attention", path="token").attribution.shape == (2, 5, 1)


def test_transformers_models_eager_and_fused():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    bert = transformers.BertConfig(vocab_size=30, max_position_embeddings=20, num_labels=3, **sizes)
    vit = transformers.ViTConfig(image_size=16, patch_size=4, num_channels=3, **sizes)
    ids, image = torch.randint(0, 30, (2, 7)), torch.randn(2, 3, 16, 16)
    for config, kind, inputs in ((bert, "BertForSequenceClassification", ids), (vit, "ViTForImageClassification", image)):
        found = []
        for how in ("eager", "sdpa"):
            torch.manual_seed(0)
            config._attn_implementation = how
            model = getattr(transformers, kind)._from_config(config, attn_implementation=how).eval()
            score = lambda x, model=model: model(x).logits  # noqa: E731
            view = at_input(model, inputs, lambda out: out.logits[:, 1])
            own = attentions(view)
            output = model(inputs, output_attentions=True) if how == "eager" else None
            if output is not None:
                for a, expected in zip(own.found, output.attentions, strict=True):
                    torch.testing.assert_close(a.chances, expected)
            assert all(a.before is not None and a.weight is not None for a in own.found)
            found.append(attention_map(view, "generic_attention").values[0])
            assert score(inputs).shape == model(inputs).logits.shape
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_picture_and_text_have_their_own_attentions():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.vision = nn.Conv2d(1, WIDE, 4, 4), nn.ModuleList([Block(fused), Block(fused)])
            self.words, self.text = nn.Embedding(20, WIDE), nn.ModuleList([Block(by_softmax), Block(by_softmax)])

        def forward(self, image, ids):
            a, b = self.patch(image).flatten(2).transpose(1, 2), self.words(ids)
            for one, other in zip(self.vision, self.text, strict=True):
                a, b = one(a), other(b)
            return (a.mean(1) * b[:, 0]).sum(1)

    torch.manual_seed(0)
    model = Both().double().eval()
    image, ids = torch.randn(2, 1, 12, 12).double(), torch.randint(0, 20, (2, 5))
    found = pellucid.explain(model, (image, ids), None, "generic_attention", resize=False)
    assert [tuple(a.shape) for a in found.attributions] == [(2, 1, 3, 3), (2, 5)]
    ids9 = torch.randint(0, 20, (2, 9))  # as many tokens as the picture has: names tell them apart
    named = pellucid.explain(model, (image, ids9), None, "generic_attention", pattern=("vision", "text"), resize=False)
    mixed = attentions(at_input(model, (image, ids9)), pattern="text")
    assert [a.name for a in mixed.found] == ["text.0", "text.1"]
    gradients = attentions(at_input(model, (image, ids9)), pattern="vision")
    grads = gradients.gradients(gradients.found)
    total = torch.eye(9).double()
    for layer, g in zip(gradients.found, grads, strict=True):
        total = total + (layer.chances * g[0]).relu().mean(1) @ total
    torch.testing.assert_close(named.attributions[0].flatten(1), (total - torch.eye(9)).mean(1))


class _Careful(nn.Module):
    """Calls its layer by keyword, behind one that fails."""

    def __init__(self, block):
        super().__init__()
        self.block, self.broken = block, nn.Linear(WIDE + 1, 1)

    def forward(self, x):
        with contextlib.suppress(RuntimeError):
            self.broken(x)
        return self.block(x=x)


def test_layers_that_fail_or_get_keywords_keep_their_names(slow, x):
    model = like(slow, by_softmax)
    expected = attentions(at_input(model, x, 1), source=r"blocks\.\d$").found
    model.blocks = nn.ModuleList(_Careful(block) for block in model.blocks)
    found = attentions(at_input(model, x, 1), source=r"blocks\.\d\.block$").found
    assert [own.name for own in found] == [f"blocks.{i}.block" for i in range(DEEP)]
    for own, plain in zip(found, expected, strict=True):
        assert own.before.equal(plain.before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_refusals(slow, x):
    model = like(slow, by_softmax)
    with pytest.raises(InputError, match="attend nowhere"):
        pellucid.explain(nn.Sequential(nn.Flatten(), nn.Linear(144, 2).double()), x, 1, "rollout")
    for wrong, words in (
        ({"start": 3}, "3 layers of attention"), ({"rows": 40}, "10 tokens"), ({"rows": "last"}, "'auto', 'mean'"),
        ({"pattern": "decoder"}, "decoder"), ({"special": 4}, "none of which fits"),
    ):  # fmt: skip
        with pytest.raises((OptionError, InputError), match=words):
            pellucid.explain(model, x, 1, "rollout", **wrong)
    with pytest.raises(OptionError, match="'head' or 'token'"):
        pellucid.explain(model, x, 1, "bidirectional_attention", path="both")
    with pytest.raises(OptionError, match="no option 'steps'"):
        pellucid.explain(model, x, 1, "rollout", steps=3)
