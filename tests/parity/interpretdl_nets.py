"""The small networks that InterpretDL explained for `interpretdl_numbers.npz`, in PyTorch.

`make_interpretdl_numbers.py` defines the same networks in PaddlePaddle and gives them the same weights. The layer names are
InterpretDL's: it finds the attention probabilities at a layer called `attn_drop`, and the word embedding by `word_embeddings`.
"""

import numpy as np
import torch
from torch import nn


class Cnn(nn.Module):
    """Two convolutions, a mean over the picture, one linear layer. Takes pictures of any size."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.fc(x.flatten(1))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        attn = self.attn_drop(torch.softmax(q @ k.transpose(-2, -1) * self.scale, dim=-1))
        return self.proj((attn @ v).transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim * 2)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """A pre-norm vision transformer that reads its answer off the class token (token 0)."""

    def __init__(self, size=32, patch=8, dim=12, heads=3, depth=3, outputs=4):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, dim))
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Embeddings(nn.Module):
    def __init__(self, vocabulary, length, dim):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, dim)
        self.position_embeddings = nn.Embedding(length, dim)

    def forward(self, ids):
        return self.word_embeddings(ids) + self.position_embeddings(torch.arange(ids.shape[1], device=ids.device))


class Text(nn.Module):
    """A pre-norm text transformer that reads its answer off token 0. It attends to padding like to any token."""

    def __init__(self, vocabulary=30, length=9, dim=12, heads=3, depth=2, outputs=3):
        super().__init__()
        self.embeddings = Embeddings(vocabulary, length, dim)
        self.blocks = nn.ModuleList([Block(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)

    def forward(self, ids):
        x = self.embeddings(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Clip(nn.Module):
    """A picture tower and a text tower; the logits are ten times the cosines between their outputs."""

    def __init__(self):
        super().__init__()
        self.visual = Vit(size=28, patch=4, depth=2, outputs=6)
        self.text = Text(length=7, outputs=6)

    def forward(self, image, ids):
        image = nn.functional.normalize(self.visual(image), dim=-1)
        text = nn.functional.normalize(self.text(ids), dim=-1)
        logits = 10.0 * image @ text.T
        return logits, logits.T


# By the name of the network's part in the npz: `vit14` has the 14 x 14 patches that InterpretDL's transformer methods ask for.
NETS = {
    "cnn": Cnn,
    "vit": Vit,
    "vit14": lambda: Vit(size=28, patch=2),
    "text": Text,
    "clip": Clip,
}


def load(name, numbers):
    """The network `name` of `NETS`, in eval mode, with its weights from `numbers`, the opened npz."""
    net = NETS[name]()
    net.load_state_dict({key: torch.from_numpy(np.asarray(numbers[f"{name}/{key}"])) for key in net.state_dict()})
    return net.eval()
