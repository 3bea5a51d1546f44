"""`python -m benchmarks.language`: a language model's prompt explained, against Captum and against whole sequences, on one CPU thread.

A model of GPT-2's shape, 6 layers of 256, with random weights. Times are of the processor, medians of interleaved rounds. "Whole
sequences" reads prompt and answer of every row once, in batches, and asks for the logits of the answer's tokens only, unless all
are said. Captum reads each row once for each token of the answer.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import captum
import torch
import transformers
from captum.attr import FeatureAblation, LLMAttribution, TextTokenInput
from torch import Tensor

from benchmarks.measure import Work
from pellucid.language import PromptView, at_prompt, token_prompt
from pellucid.perturb import feature_ablation, shapley
from pellucid.perturb.sampling import every

WORDS, PROMPT, ANSWER = 8192, 64, 8
SEGMENTS, SEGMENT = 8, 24
BATCHES = (8, 16, 65)


def model() -> Any:
    """GPT-2 in small."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=WORDS, n_layer=6, n_embd=256, n_head=8, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config).eval()


def tokens(count: int, seed: int) -> list[int]:
    """Any ids but that of the stand-in."""
    found: list[int] = torch.randint(1, WORDS, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return found


class Numbers:
    """A tokenizer of numbers, for Captum."""

    def encode(self, text: str, return_tensors: str = "", add_special_tokens: bool = True) -> Any:
        ids = [int(word) for word in text.split()]
        return torch.tensor([ids]) if return_tensors else ids

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [str(i) for i in ids]

    def __call__(self, text: str, **options: Any) -> dict[str, list[Any]]:
        ids = self.encode(text)
        return {"input_ids": ids, "offset_mapping": [(0, 1)] * len(ids)}

    def decode(self, ids: Any) -> str:
        return " ".join(map(str, torch.as_tensor(ids).flatten().tolist()))


def theirs(net: Any, prompt: Sequence[int], answer: Sequence[int]) -> Work:
    """Captum's ablation of each token, by the only way of its three that is right and token by token."""
    method, given = LLMAttribution(FeatureAblation(net), Numbers()), TextTokenInput(" ".join(map(str, prompt)), Numbers(), baselines=0)
    return lambda: method.attribute(given, target=torch.tensor(answer), use_cached_outputs=False)


def whole(net: Any, rows: Sequence[Sequence[int]], answer: Sequence[int], batch: int, keep: int = ANSWER) -> Callable[[], Tensor]:
    """The log-probabilities of the answer after each row, nothing shared; from the logits of the last `keep` positions (0: of all)."""
    ids = torch.tensor([[*row, *answer[:-1]] for row in rows])
    labels = torch.tensor(answer)[None, :, None]

    def work() -> Tensor:
        with torch.no_grad():
            parts = [net(some, logits_to_keep=keep, use_cache=False).logits[:, -len(answer) :] for some in ids.split(batch)]
            return torch.cat([part.log_softmax(2).gather(2, labels.expand(len(part), -1, -1))[:, :, 0] for part in parts])

    return work


def medians(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Seconds of the processor: other programs may run."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            found[name] += [time.process_time() - start] if i else []  # the first round warms up
    return {name: statistics.median(times) for name, times in found.items()}


def ablation(net: Any, rounds: int) -> list[str]:
    """Every token replaced, one at a time."""
    prompt, answer = tokens(PROMPT, 1), tokens(ANSWER, 2)
    rows = [prompt] + [[*prompt[:i], 0, *prompt[i + 1 :]] for i in range(PROMPT)]
    views: list[PromptView] = []

    def ours() -> Tensor:
        views.append(at_prompt(net, token_prompt(prompt, stand_in=0), answer))
        return feature_ablation(views[-1], views[-1].baselines).values[0][:, 0]

    found, expected = ours(), whole(net, rows, answer, 8)()
    assert torch.allclose(found.T, expected[0] - expected[1:], atol=1e-4)
    slow = theirs(net, prompt, answer)
    assert torch.allclose(found, slow().token_attr, atol=1e-4)  # type: ignore[attr-defined]
    plain = {f"whole sequences, {n} a batch": whole(net, rows, answer, n) for n in BATCHES}
    times = medians({"ours": ours, **plain, "whole sequences, 65 a batch, all logits": whole(net, rows, answer, 65, 0)}, rounds)
    times["Captum, without its cache"] = medians({"theirs": slow}, 1)["theirs"]
    spent = views[0].spent
    print(f"Ablation of {PROMPT} tokens, {ANSWER} of the answer: {spent.calls} calls, {spent.tokens / spent.plain:.2f} of the tokens.")
    return table("ablation", times)


def segments(net: Any, rounds: int) -> list[str]:
    """Exact Shapley values of segments."""
    prompt, answer = tokens(SEGMENTS * SEGMENT, 3), tokens(ANSWER, 4)
    kept = every(SEGMENTS)
    rows = [[t if row[i // SEGMENT] else 0 for i, t in enumerate(prompt)] for row in kept.tolist()]
    given = token_prompt(prompt, stand_in=0, units=[i // SEGMENT for i in range(len(prompt))])

    def ours(shared: bool = True) -> Tensor:
        view = at_prompt(net, given, answer, target="sequence", shared=shared)
        return shapley(view, view.baselines).notes["groups"]

    assert torch.allclose(ours(), ours(False), atol=1e-4)
    times = medians({"ours": ours, **{f"whole sequences, {n} a batch": whole(net, rows, answer, n) for n in (16, 64)}}, rounds)
    return table("exact Shapley", times)


def table(title: str, times: Mapping[str, float]) -> list[str]:
    """Rows of the table."""
    return [f"| {title}, {name} | {seconds:.2f} | {seconds / times['ours']:.2f} |" for name, seconds in times.items()]


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    net = model()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, captum {captum.__version__}, CPU, 1 thread.\n")
    print(f"Exact Shapley values of {SEGMENTS} segments of {SEGMENT} tokens: {2**SEGMENTS} coalitions.")
    rows = [*ablation(net, 7), *segments(net, 3)]
    print("\n| what | seconds | time / ours |\n|---|---|---|")
    print(*rows, sep="\n", flush=True)


if __name__ == "__main__":
    main()
