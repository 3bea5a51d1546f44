"""Short passages of the docstrings of three libraries, read from their sources; nothing is imported or run."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from ..errors import FileError
from .words import split

__all__ = ["LIBRARIES", "Labelled", "passages"]

Labelled = tuple[tuple[str, int], ...]

# Parts of each library, because parsing all of torch takes several seconds.
_TORCH = ("distributions", "fft", "linalg", "nn", "optim", "sparse", "special", "utils/data")
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "python": ("*.py", "asyncio/*.py", "email/*.py", "http/*.py", "logging/*.py", "unittest/*.py"),
    "torch": ("_t*_docs.py", "functional.py", *(f"{folder}/**/*.py" for folder in _TORCH)),
    "sklearn": ("*.py", "[a-su-z]*/*.py"),  # without its tests
}
"""The classes, and the files of each that are read."""

MOST = 4000
FEWEST = 200
SHORTEST, LONGEST = 8, 48

_NAMES = re.compile(r"python|torch|sklearn|scikit|cython|numpy|scipy|--|~~", re.IGNORECASE)
_ROLE = re.compile(r":[a-z:]+:`~?([^`]*)`|[`*]")
_ENTRY = re.compile(r"\s*[\w*, ]+ ?(\([^)]*\))?: |\s*[\w*, ]+ : .*")
_SENTENCE = re.compile(r"[A-Z][^<>{}|\\=:]*[a-z]\.")
_BETWEEN = re.compile(r"(?<=[a-z)]\.)\s+(?=[A-Z])")


@cache
def passages() -> tuple[Labelled, Labelled]:
    """Training and held-out passages of 8 to 48 words with their labels: one sentence or a few that follow each other.

    No sentence occurs twice. Sentences that name a library, or that two libraries share, are left out. The order, and
    which part a passage belongs to, depend on its words alone.

    Raises:
        FileError: fewer than 200 passages of a library: its sources are not installed.
    """
    blocks = {name: _distinct(_read(name)) for name in LIBRARIES}
    uses = Counter(key for found in blocks.values() for block in found for key in block)
    ordered = sorted((key, text, label) for label, (name, found) in enumerate(blocks.items()) for key, text in _chosen(name, found, uses))
    train = tuple((text, label) for key, text, label in ordered if not _is_held_out(key))
    held_out = tuple((text, label) for key, text, label in ordered if _is_held_out(key))
    return train, held_out


def _chosen(name: str, blocks: Iterable[Mapping[str, str]], uses: Mapping[str, int]) -> list[tuple[str, str]]:
    texts = (text for block in blocks for text in _joined(text for key, text in block.items() if uses[key] == 1))
    found = sorted((_key(text), text) for text in texts)
    if len(found) < FEWEST:
        raise FileError(
            f"{len(found)} passages in the docstrings of {name} at {_root(name)}; the data set needs {FEWEST} of each "
            "library: install it with its .py files"
        )
    return found[:MOST]


def _joined(sentences: Iterable[str]) -> Iterator[str]:
    found = [""]
    for sentence in sentences:
        longer = f"{found[-1]} {sentence}".strip()
        if len(split(longer)) <= LONGEST:
            found[-1] = longer
        else:
            found.append(sentence)
    return (passage for passage in found if SHORTEST <= len(split(passage)) <= LONGEST)


def _distinct(blocks: Iterable[list[str]]) -> list[dict[str, str]]:
    seen: set[str] = set()
    found = []
    for block in blocks:
        new = {key: text for key, text in ((_key(text), text) for text in block) if key not in seen}
        seen.update(new)
        found.append(new)
    return found


def _key(text: str) -> str:
    # Without numbers, punctuation and case: what differs only in these is the same.
    letters = " ".join(word for word in split(text) if not word.isdigit())
    return hashlib.sha1(letters.encode(), usedforsecurity=False).hexdigest()


def _is_held_out(key: str) -> bool:
    return int(key[-8:], 16) % 5 == 0


def _root(name: str) -> Path:
    if name == "python":
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else Path(name)


def _read(name: str) -> Iterator[list[str]]:
    root = _root(name)
    for path in sorted(path for pattern in LIBRARIES[name] for path in root.glob(pattern)):
        for docstring in _docstrings(path):
            for block in _blocks(docstring):
                yield _sentences(block)


def _docstrings(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown escapes in other people's strings
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            return
    yield from _within(tree)
    # What is written in C gets its docstring from a call: add_docstr(torch.abs, "...").
    for statement in tree.body:
        if isinstance(statement, ast.Expr | ast.Assign) and isinstance(statement.value, ast.Call):
            yield from _long_strings(statement.value)


def _within(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    # Not `ast.walk`, which visits every expression too and takes three times as long.
    yield ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            yield from _within(child)


def _long_strings(call: ast.Call) -> Iterator[str]:
    for node in ast.walk(call):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 100:
            yield node.value


def _blocks(docstring: str) -> Iterator[str]:
    # A block ends at an empty line, at another indentation, and before "name (type): " and "name : type".
    block, indent = "", 0
    for line in [*docstring.splitlines(), ""]:
        entry = _ENTRY.match(line)
        if entry or not line.strip() or len(line) - len(line.lstrip()) != indent:
            yield block
            block, indent = "", len(line) - len(line.lstrip())
        block += " " + (line[entry.end() :] if entry else line)


def _sentences(block: str) -> list[str]:
    text = " ".join(_ROLE.sub(r"\1", block).split())
    return [sentence for sentence in _BETWEEN.split(text) if _SENTENCE.fullmatch(sentence) and not _NAMES.search(sentence)]
