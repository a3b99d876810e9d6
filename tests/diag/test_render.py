"""The text of diagnostics: pinned renderings, and input that tries to break them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.diag import Diagnostic, Help, Label, Note, ShapeError, Span, render
from tessera.diag.text import LONGEST_TEXT, visible, width_of, wrap

MODEL = """\
from tessera import Tensor

def project(x: Tensor["B", "S", "D"],
            w: Tensor["K", "F"]):
    y = x * 2

    return x @ w

def join(a, b, c):
    return cat([
        a,
        b,
        c,
        c,
    ], dim=1)
\tz\t= 日本 + x
"""

At = Callable[..., Span]


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> At:
    """Spans of `model.py`: (line, column, end column), with an end line for long ones."""
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def span(line: int, column: int, end_column: int, end_line: int | None = None) -> Span:
        return Span("model.py", line, column, end_line or line, end_column)

    return span


def shown(diagnostic: Diagnostic, width: int = 100) -> str:
    return render([diagnostic], width=width) + "\n"


def finding(*labels: Label, notes: tuple[Note, ...] = (), helps: tuple[Help, ...] = ()) -> Diagnostic:
    return Diagnostic("TSR0201", "dimension `D` meets `K` in a contraction", labels, notes, helps)


def test_two_labels_on_one_line(at: At) -> None:
    diagnostic = finding(
        Label(at(7, 11, 12), "`D`, last dim of `x`", primary=True),
        Label(at(7, 15, 16), "`K`, first dim of `w`"),
        notes=(Note('`D` comes from x: Tensor["B", "S", "D"]', at(3, 15, 36)),),
        helps=(Help("`w.T` has type [F, K]", at(7, 15, 16), "w.T"),),
    )
    assert shown(diagnostic) == dedent(
        """\
        error[TSR0201]: dimension `D` meets `K` in a contraction
         --> model.py:7:12
        7 |     return x @ w
          |            ^   - `K`, first dim of `w`
          |            |
          |            `D`, last dim of `x`
        note: `D` comes from x: Tensor["B", "S", "D"] at model.py:3
        help: `w.T` has type [F, K]
        7 |     return x @ w.T
          |                ~~~
        """
    )


def test_labels_on_several_lines(at: At) -> None:
    diagnostic = finding(
        Label(at(3, 15, 36), "`x` declared here"),
        Label(at(5, 8, 13), "first used here"),
        Label(at(7, 11, 16), "these do not meet", primary=True),
    )
    assert shown(diagnostic) == dedent(
        """\
        error[TSR0201]: dimension `D` meets `K` in a contraction
         --> model.py:7:12
        3 | def project(x: Tensor["B", "S", "D"],
          |                --------------------- `x` declared here
        4 |             w: Tensor["K", "F"]):
        5 |     y = x * 2
          |         ----- first used here
        6 |
        7 |     return x @ w
          |            ^^^^^ these do not meet
        """
    )


def test_lines_left_out(at: At) -> None:
    diagnostic = finding(Label(at(7, 11, 16), "here", primary=True), Label(at(3, 12, 13), "there"))
    assert shown(diagnostic).splitlines()[2:5] == [
        '3 | def project(x: Tensor["B", "S", "D"],',
        "  |             - there",
        "...",
    ]


def test_nested_and_equal_places(at: At) -> None:
    diagnostic = finding(
        Label(at(7, 11, 16), "[B, S, ?]", primary=True),
        Label(at(7, 11, 12), "`D`"),
        Label(at(7, 15, 16), "`K`"),
        Label(at(7, 15, 16), "first dim"),
    )
    assert shown(diagnostic) == dedent(
        """\
        error[TSR0201]: dimension `D` meets `K` in a contraction
         --> model.py:7:12
        7 |     return x @ w
          |            -^^^-
          |            |   |
          |            |   first dim
          |            |   `K`
          |            `D`
          |            [B, S, ?]
        """
    )


def test_an_expression_over_many_lines(at: At) -> None:
    diagnostic = finding(Label(at(10, 11, 13, end_line=15), "joined along 1", primary=True))
    assert shown(diagnostic) == dedent(
        """\
        error[TSR0201]: dimension `D` meets `K` in a contraction
          --> model.py:10:12
        10 |     return cat([
           |            ^^^^^
        11 |         a,
           |         ^^
        ...
        15 |     ], dim=1)
           |     ^^^^^^^^^ joined along 1
        """
    )


def test_tabs_and_wide_characters(at: At) -> None:
    diagnostic = finding(Label(at(16, 5, 7), "wide", primary=True), Label(at(16, 10, 11), "narrow"))
    assert shown(diagnostic).splitlines()[2:] == [
        "16 |     z    = 日本 + x",
        "   |            ^^^^   - narrow",
        "   |            |",
        "   |            wide",
    ]


def test_two_files(at: At, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("def linear(x): ...\n")
    diagnostic = finding(
        Label(at(7, 11, 16), "called here", primary=True),
        Label(Span("other.py", 1, 4, 1, 10), "defined here"),
    )
    assert shown(diagnostic).splitlines()[1:] == [
        " --> model.py:7:12",
        "7 |     return x @ w",
        "  |            ^^^^^ called here",
        " ::: other.py:1:5",
        "1 | def linear(x): ...",
        "  |     ------ defined here",
    ]


def test_missing_source() -> None:
    diagnostic = finding(
        Label(Span("gone.py", 120, 4, 120, 5), "`D`", primary=True),
        Label(Span("gone.py", 120, 8, 120, 9), "`K`"),
        helps=(Help("transpose it", Span("gone.py", 120, 8, 120, 9), "w.T"),),
    )
    assert shown(diagnostic) == dedent(
        """\
        error[TSR0201]: dimension `D` meets `K` in a contraction
           --> gone.py:120:5
        120 | (source not available)
            | ^ `D`
            | - `K`
        help: transpose it
        """
    )


def test_an_insertion_is_shown_with_plus_signs(at: At) -> None:
    diagnostic = finding(helps=(Help("transpose `w`", at(7, 16, 16), ".T"),))
    assert shown(diagnostic).splitlines()[1:] == [
        "help: transpose `w`",
        "7 |     return x @ w.T",
        "  |                 ++",
    ]


def test_several_findings_and_warnings() -> None:
    text = render([Diagnostic("TSR0202", "one"), Diagnostic("TSR0606", "two", severity="warning")])
    assert text == "error[TSR0202]: one\n\nwarning[TSR0606]: two"


def test_places_beyond_the_line_are_clipped(at: At) -> None:
    lines = shown(finding(Label(at(5, 200, 300), "far"), Label(at(5, 3, 900), "long"))).splitlines()
    assert lines[2:] == [
        "5 |     y = x * 2",
        "  |    ----------^ far",
        "  |    |",
        "  |    long",
    ]
    assert shown(finding(Label(at(5, 9, 4, end_line=3), "backwards"))).count("backwards") == 1


def test_long_lines_are_cut_around_the_labels(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("x = " + "a + " * 100_000 + "b @ c + " + "d + " * 100_000 + "e\n")
    start = 4 + 4 * 100_000
    text = render([finding(Label(Span(str(path), 1, start, 1, start + 5), "here", primary=True))], width=80)
    lines = text.splitlines()
    assert all(width_of(line) <= 80 for line in lines[2:])
    marked = lines[3].index("^")
    assert lines[2][marked : marked + 5] == "b @ c"
    assert lines[2][4] == "…" and lines[2].endswith("…")


@pytest.mark.parametrize("width", [1, 40, 60, 100])
def test_long_notes_and_labels_are_wrapped(at: At, width: int) -> None:
    words = "word " * 60
    diagnostic = finding(Label(at(7, 11, 12), words), notes=(Note(words),), helps=(Help(words),))
    lines = shown(diagnostic, width).splitlines()
    assert max(map(width_of, lines[1:])) <= max(width, 60)
    assert "".join(lines).count("word") == 180


def test_colour_adds_nothing_but_colour(at: At) -> None:
    diagnostic = finding(Label(at(7, 11, 12), "`D`", primary=True), notes=(Note("n"),), helps=(Help("h"),))
    colored = render([diagnostic], color=True)
    assert "\x1b[1;31m^" in colored
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[34m", "\x1b[1;31m", "\x1b[36m", "\x1b[1;32m", "\x1b[1;33m"):
        colored = colored.replace(code, "")
    assert colored == render([diagnostic])


ATTACKS = [
    "\x1b[2J\x1b[31mowned",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u202eright to left",
    "\u2066isolate\u2069",
    "zero\u200bwidth\ufeff",
    "bell\x07\x08\x7f",
    "line\u2028separator",
    "carriage\rreturn",
    "lone \ud800 surrogate",
    "tag \U000e0041",
    "nul\0",
]


def _printable(text: str) -> bool:
    return all(
        char == "\n" or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in text
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_terminal_escapes_from_input_are_spelled_out(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "attack.py"
    path.write_bytes(("x = 1  # " + attack.replace("\r", " ") + "\n").encode("utf-8", "surrogatepass"))
    diagnostic = Diagnostic(
        "TSR0101",
        f"`{attack}` is no name",
        (Label(Span(str(path), 1, 0, 1, 1), attack, True), Label(Span(attack, 1, 0, 1, 1), attack)),
        (Note(attack, Span(attack, 1)),),
        (Help(attack, Span(str(path), 1, 4, 1, 5), attack),),
    )
    assert _printable(render([diagnostic]))
    assert _printable(str(ShapeError.from_diagnostics([diagnostic])))


def test_input_cannot_write_lines_of_its_own() -> None:
    forged = "x\nhelp: run this\nerror[TSR9999]: forged"
    text = render([Diagnostic("TSR0101", forged, (Label(Span("a\nb", 1), forged),), (Note(forged),))])
    starts = [line for line in text.splitlines() if line.startswith(("help", "error", "note"))]
    assert starts == ["error[TSR0101]: x", "note: x"]
    assert "a\\nb:1:1" in text


def test_very_long_text_is_cut_and_counted() -> None:
    text = render([Diagnostic("TSR0101", "x" * 1_000_000)])
    assert len(text) < LONGEST_TEXT + 100
    assert text.endswith("… (996000 more characters)")


@given(
    st.text(max_size=200), st.integers(0, 250), st.integers(0, 250), st.integers(1, 5), st.integers(0, 300)
)
def test_any_text_and_any_place_render(text: str, start: int, end: int, line: int, width: int) -> None:
    labels = (
        Label(Span(__file__, line, start, line, end), text, True),
        Label(Span(__file__, line, end, line + 1, start), text),
    )
    shown_text = render([Diagnostic("TSR0101", text, labels, (Note(text),), (Help(text),))], width=width)
    assert _printable(shown_text)


@given(st.text(max_size=100), st.integers(1, 60))
def test_wrapping_loses_nothing(text: str, width: int) -> None:
    line = visible(text)
    assert " ".join(wrap(line, width)) == line
