"""Words from pieces, in HTML, figures and on terminals of any width."""

import io
import math
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from pellucid import Check, Display, Explanation
from pellucid.show.example import example_of
from pellucid.show.terminal import terminal
from pellucid.show.text import _bytes, draw_text, highlighted, merged, words_of

START, SPACE = "\u2581", "\u0120"
BERT = ["[CLS]", "un", "##believ", "##able", ",", "[bold]", "<b>", "film", "[SEP]", "[PAD]"]
CHINESE = ["[CLS]", *"这部电影很好看", "iPhone", "##s", "，", "好", "。", "[SEP]"]


def byte_level(*texts):
    signs = {byte: sign for sign, byte in _bytes().items()}
    return ["".join(signs[byte] for byte in text.encode()) for text in texts]


def explanation(tokens, values=None, pooling="sum", kind="text", **display):
    values = torch.randn(1, len(tokens), 4) if values is None else torch.tensor(values)[None]
    return Explanation(
        (values,),
        (torch.zeros_like(values),),
        torch.tensor([1.5]),
        "integrated_gradients",
        "output 1 ([red]x[/red])",
        predictions=torch.tensor([1]),
        confidences=torch.tensor([0.9]),
        health=(Check("finite", True, ""), Check("completeness", False, "", 0.3)),
        display=Display(kind, tuple(tokens), ("负面", "[b]正面"), pooling=pooling, **display),
    )


def texts(tokens):
    return [word.text for word in merged(tokens)]


class Page(HTMLParser):
    def __init__(self, document):
        super().__init__()
        self.text, self.tags = "", []
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


# --- merging


MERGED = {
    "wordpiece": (BERT, "[CLS] unbelievable , [bold] <b> film [SEP] [PAD]"),
    "sentencepiece": ([f"{START}The", f"{START}fil", "m", "s", f"{START}run", "</s>"], "The films run </s>"),
    "byte level": (["<s>", *byte_level("The", " fi", "lm", " was", " caf", "é")], "<s> The film was café"),
    "chat": (["<|begin_of_text|>", f"{SPACE}Hi", "there", "<|eot_id|>"], "<|begin_of_text|> Hithere <|eot_id|>"),
    "words": (["It", "rains", "again"], "It rains again"),
    "chinese": (CHINESE, "[CLS] 这部电影很好看 iPhones，好。 [SEP]"),
    "chinese sentencepiece": ([START, "这", "部", "电影", f"{START}OK", "吗"], "这部电影 OK吗"),
    "chinese wordpiece goes on": (["中", "##国", "##人"], "中国人"),
    "japanese": (["映", "画", "は", "ｏｋ"], "映画はｏｋ"),
    "byte fallback": ([f"{START}a", "<0xE7>", "<0x94>", "<0xB5>", "b"], "a电b"),
    "hashes": (["##", "a", "##b"], "## ab"),
    "first goes on": (["##ing", "a"], "ing a"),
    "latin": (["café", "naïve"], "café naïve"),
    "korean": ([f"{START}안녕", "하세요", f"{START}세계"], "안녕하세요 세계"),
    "marker at the end": ([f"{START}a", START], "a ␣"),
}


def written(tokens):
    return "".join((" " if word.spaced and i else "") + word.text for i, word in enumerate(merged(tokens)))


@pytest.mark.parametrize("case", MERGED)
def test_pieces_become_words_as_people_write_them(case):
    tokens, expected = MERGED[case]
    assert written(tokens) == expected
    assert [i for word in merged(tokens) for i in word.pieces] == list(range(len(tokens)))


def test_letters_that_are_cut_into_bytes_come_together():
    signs = byte_level("电影")[0]
    tokens = [*byte_level(" I", " saw", " "), signs[:2], signs[2:4], signs[4:], *byte_level("\n", "now")]
    assert texts(tokens) == ["I", "saw", "电影", "\n", "now"]
    assert texts(byte_level("电影", "好")) == ["电影", "好"]


def test_chinese_signs_stand_alone():
    assert texts(CHINESE)[1:8] == list("这部电影很好看")


def test_special_tokens_are_marked_and_never_joined():
    words = merged(["[CLS]", "##a", "<s>", "b", "</s>", "<pad>", "<|im_end|>", "[bold]", "<b>"])
    assert [word.special for word in words] == [True, False, True, False, True, True, True, False, False]
    assert words[1].text == "a"


@pytest.mark.parametrize("pooling", ["sum", "norm", "mean"])
def test_a_word_has_what_its_pieces_have(pooling):
    values = torch.randn(len(BERT), 4).double()
    one = explanation(BERT, values.tolist(), pooling)
    words, sums, shown = words_of(example_of(one))
    each = {"sum": values.sum(1), "norm": values.norm(dim=1), "mean": values.mean(1)}[pooling]
    whole = {"sum": each[1:4].sum(), "norm": values[1:4].norm(), "mean": each[1:4].mean()}[pooling]
    assert [word.text for word in words][1] == "unbelievable"
    assert sums[1] == pytest.approx(float(whole), rel=1e-6)
    assert sums[2:] == pytest.approx(each[4:].numpy(), rel=1e-6)
    apart, plain, _ = words_of(example_of(one), merge=False)
    assert [word.text for word in apart] == BERT
    assert plain == pytest.approx(each.numpy(), rel=1e-6)
    if pooling == "sum":
        assert sums.sum() == pytest.approx(plain.sum(), rel=1e-6)
    assert shown.values.shape == sums.shape


# --- HTML and figures


def test_html_has_no_spaces_between_chinese_signs():
    assert Page(highlighted(explanation(CHINESE))).text == "[CLS] 这部电影很好看 iPhones，好。 [SEP]"
    assert Page(highlighted(explanation(BERT))).text == "[CLS] unbelievable , [bold] <b> film [SEP] [PAD]"


def test_html_escapes_and_tells_the_pieces():
    document = highlighted(explanation(BERT))
    assert set(Page(document).tags) == {"p", "span"}
    assert "&lt;b&gt;" in document
    assert "(un ##believ ##able)" in document
    assert document.count("opacity:.6") == 3
    assert "##believ</span>" in highlighted(explanation(BERT), merge=False)


@pytest.mark.parametrize("tokens", [BERT, CHINESE, ["🙂", "a", "\u0378", "العربية"], byte_level("电影", "\n", " ok")])
def test_figures_draw_signs_that_no_font_has_without_noise(tokens):
    figure = draw_text(explanation(tokens), width=3.0)
    figure.canvas.draw()
    figure.savefig(io.BytesIO(), format="png")
    boxes = figure.axes[0].patches
    assert len(boxes) == len(merged(tokens))
    for box, text in zip(boxes, figure.axes[0].texts, strict=True):
        assert box.get_x() + box.get_width() <= 3.0 - 0.24 + 1e-6
        assert text.get_window_extent().width <= box.get_window_extent().width * 1.05


def test_figures_can_show_pieces():
    one = explanation(BERT)
    assert len(draw_text(one).axes[0].patches) == len(BERT) - 2
    assert len(one.draw(merge=False).axes[0].patches) == len(BERT)


def test_chinese_columns_draw_without_noise():
    one = explanation(["年龄", "工作"], [0.5, -0.25], kind="table", cells=(("41", "职员"),))
    one.draw().savefig(io.BytesIO(), format="png")


# --- terminals


def printed(shown, width=80, **options):
    file = io.StringIO()
    Console(width=width, file=file, legacy_windows=False, **{"color_system": None, **options}).print(shown)
    return file.getvalue()


def table():
    names = ("the age of the person", "[bold]job[/bold]", "合同类型的名称很长很长", "z")
    return explanation(names, [0.5, -0.3, 0.02, -0.0001], kind="table", cells=(("41", "[red]clerk", "长期", "\x1b[31m"),))


EVERY = {
    "english": lambda: explanation(BERT),
    "chinese": lambda: explanation(CHINESE),
    "long": lambda: explanation(["a" * 300, "电" * 100]),
    "hostile": lambda: explanation(["[bold]", "[/]", "\x1b[31m", "\r", "a\tb", ":smile:", "\\[x]", "\x9b"]),
    "table": table,
    "image": lambda: explanation([], torch.randn(3, 4, 4).tolist(), kind="image"),
    "series": lambda: explanation([], torch.randn(3, 9).tolist(), kind="series"),
    "tensor": lambda: explanation([], torch.randn(2, 2, 2, 2).tolist(), kind="tensor"),
    "nan": lambda: explanation(["a", "b"], [math.nan, 1.0]),
    "all nan": lambda: explanation(["a", "b"], [math.nan, math.nan], kind="table"),
    "zero": lambda: explanation(["a", "b"], [0.0, 0.0]),
    "zero table": lambda: explanation(["a", "b"], [0.0, 0.0], kind="table"),
}


@pytest.mark.parametrize("width", [2, 7, 20, 47, 48, 80, 200])
@pytest.mark.parametrize("case", EVERY)
def test_terminals_of_any_width_show_everything(case, width):
    one = EVERY[case]()
    found = printed(one, width)
    assert all(cell_len(line) <= width for line in found.split("\n"))
    assert "\x1b" not in found
    squeezed = "".join(found.split())
    assert "predicted[b]正面(90%)" in squeezed
    assert "✗1of2checksfailed:completeness" in squeezed
    if one.display.kind == "text":
        body = "".join("".join(texts(one.display.names)).split())
        assert len([sign for sign in body if sign.isprintable() and sign not in squeezed]) == 0


def test_markup_in_tokens_is_shown_as_it_is():
    found = printed(EVERY["hostile"]())
    for words in ("[bold] [/] ␛[31m ␍ a→b :smile: \\[x] \ufffd", "output 1 ([red]x[/red])"):
        assert words in found
    assert "[bold]job[/bold] = [red]clerk" in printed(table())


def test_signs_do_not_depend_on_colour():
    one = explanation(["good", "bad", "so"], [2.0, -2.0, 0.0])
    coloured = printed(one, force_terminal=True, color_system="truecolor")
    assert "48;2;" in coloured
    line = next(line for line in coloured.split("\n") if "good" in line)
    good, bad = (next(part for part in line.split("\x1b[") if word in part).split("m")[0].split(";") for word in ("good", "bad"))
    assert "4" in bad[:2]
    assert "4" not in good[:2]
    assert "against" in coloured
    plain = printed(one, force_terminal=True, color_system="truecolor", no_color=True)
    assert "38;" not in plain
    assert "48;" not in plain
    assert "strongest: good +2.0, bad −2.0" in plain
    assert "strongest: good +2.0, bad −2.0" in printed(one)


def test_bars_are_as_long_as_their_numbers():
    one = explanation(["a", "b", "c"], [1.0, 0.5, -0.5], kind="table")
    lines = [line for line in printed(one).split("\n") if "█" in line]
    lengths = [line.count("█") + line.count("▌") / 2 + line.count("▐") / 2 for line in lines]
    assert lengths[1] == pytest.approx(lengths[0] / 2, abs=0.5)
    assert lengths[2] == pytest.approx(lengths[0] / 2, abs=0.5)
    assert lines[0].index("█") == lines[1].index("█")
    assert lines[2].index("█") < lines[0].index("█")
    assert "all together +1.00" in printed(one)


def test_a_terminal_of_ascii_gets_ascii():
    for one in (explanation(CHINESE), table()):
        file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        Console(width=40, file=file).print(one)
        file.flush()
        assert b"predicted" in file.buffer.getvalue()


def test_width_and_example():
    one = explanation(BERT)
    assert all(cell_len(line.rstrip()) <= 30 for line in printed(terminal(one, width=30), 100).split("\n"))
    assert str(terminal(one)) == printed(one)
    with pytest.raises(Exception, match="example=1"):
        terminal(one, 1)


def test_rich_prints_explanations_and_pellucid_does_not_need_it():
    code = "import sys, pellucid, pellucid.tables; print([m for m in ('rich', 'matplotlib', 'pandas', 'sklearn') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert np.isfinite(len(printed(explanation(BERT))))
