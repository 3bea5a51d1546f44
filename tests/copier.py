"""A language model whose workings are known: it looks for the last two words in what it has read, and says what came after them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NAMES = ("Anna", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana")
THINGS = ("tea", "jam", "figs", "rice", "soup", "bread", "plums", "cake")
WORDS = ("<pad>", "<s>", *NAMES, *THINGS, "likes", "and", "Who", "?", ".", ":", "Context", "Question", "Answer", "it", "rains", "a", "lot")


class Copier(nn.Module):
    """One attention head that copies: what stands behind the last two words wherever else they stand, by the embeddings of words."""

    def __init__(self, words: int = len(WORDS), sharp: float = 12.0, strength: float = 6.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, words)
        nn.init.eye_(self.embedding.weight)
        self.sharp, self.strength = sharp, strength

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        said = self.embedding(input_ids)
        before = torch.cat([torch.zeros_like(said[:, :1]), said[:, :-1]], 1)
        before_that = torch.cat([torch.zeros_like(said[:, :1]), before[:, :-1]], 1)
        alike = said @ before.transpose(1, 2) + before @ before_that.transpose(1, 2)
        length = input_ids.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=said.device).triu()
        looks = (self.sharp * alike).masked_fill(later, -1e4).softmax(-1)
        copied: Tensor = self.strength * looks @ said @ self.embedding.weight.T
        return copied


def tokenizer(chat: bool = False):
    """One token for each word; what stands between spaces, and signs."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>")
    if chat:
        found.chat_template = (
            "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}Answer :{% endif %}"
        )
    return found


def facts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Names, each with what they like."""
    source = torch.Generator().manual_seed(seed)
    names, things = (torch.randperm(8, generator=source).tolist() for _ in range(2))
    return [(NAMES[n], THINGS[t]) for n, t in zip(names[:count], things[:count], strict=True)]
