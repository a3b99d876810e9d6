"""Random mutations of real IR text: whatever comes out is refused as a Tessera error or parses, and nothing else
happens.
"""

from __future__ import annotations

import random
import resource
import string
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.diag import ParseError, TesseraError
from tessera.ir.parser import parse, parse_all
from tessera.ir.printer import print_function
from tests.fuzz.build import every_sample, function_of
from tests.fuzz.programs import kernels, stages

MUTATIONS = 2500
PIECES = [
    *string.printable,
    "%", "`", '"', "[", "]", "(", ")", "{", "}", "->", "over", "keepdim", "where", "return", "inf", "nan", "none",
    "true", "fn", "kernel", "map", "nest", "sweep", "load", "store", "f32", "f32[B]", "f32<i>", "scalar f32", "1e400",
    "-0.0", "18446744073709551616", "-9223372036854775809", "dim=(99,)", "shape=[99999999999]", "dtype=fp8_e4m3",
    "B // 0", "B/0", "B**99", "\x00", "\u202e", "\xe9", "\ud800", "# a.py:9\n", "%x", "@softmax", '"\\u202e"', "((((",
    "]]]]", "divides",
]  # fmt: skip


def corpus() -> list[str]:
    """The text of functions of every kind: as built, fused, and as kernels."""
    found: list[str] = []
    names = {
        "softmax",
        "cat",
        "slice_update",
        "layer_norm",
        "argmax",
        "take",
        "rand",
        "cast",
        "matmul",
        "sort",
        "pad",
        "add",
    }
    for name, number, record, sample in every_sample():
        if name in names and number < 2:
            *_, (_, f) = stages(function_of(record, sample).function)
            found += [print_function(function_of(record, sample).function), print_function(f)]
            found += [print_function(k.function) for k in kernels(f)]
    return found


def mutate(text: str, rng: random.Random) -> str:
    """One to four edits: cut, double, swap, insert, replace a number, cut the end off."""
    for _ in range(rng.randint(1, 4)):
        i, j = sorted(rng.randint(0, len(text)) for _ in range(2))
        j = min(j, i + rng.choice((1, 3, 20, 200)))
        match rng.randint(0, 6):
            case 0:
                text = text[:i] + text[j:]
            case 1:
                text = text[:j] + text[i:j] + text[j:]
            case 2:
                text = text[:i] + rng.choice(PIECES) + text[i:]
            case 3:
                text = text[:i] + rng.choice(PIECES) + text[j:]
            case 4:
                text = text[:i] + text[i:j][::-1] + text[j:]
            case 5:
                lines = text.split("\n")
                a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
                lines[a], lines[b] = lines[b], lines[a]
                text = "\n".join(lines)
            case _:
                words = text.split(" ")
                words[rng.randrange(len(words))] = rng.choice(words)
                text = " ".join(words)
    return text


def only_errors_of_ours(text: str) -> bool:
    """Parse a text; True when it is a function, whose text must then read back."""
    try:
        f = parse(text)
    except ParseError as error:
        assert error.codes[0] in {"TSR0501", "TSR0502", "TSR0503", "TSR0505"}
        assert error.spans or error.code == "TSR0505"
        str(error)
        return False
    assert parse(print_function(f)) == f
    return True


def resident() -> int:
    """Bytes of the largest resident set so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def test_mutations_of_real_text() -> None:
    texts = corpus()
    before = resident()
    rng = random.Random(20_26)
    passed = sum(only_errors_of_ours(mutate(rng.choice(texts), rng)) for _ in range(MUTATIONS))
    assert 0 < passed < MUTATIONS  # the edits are neither harmless nor hopeless
    assert resident() - before < 500 << 20


@pytest.mark.nightly
@settings(max_examples=5000)
@given(st.integers(0, 2**63))
def test_mutations_of_real_text_for_long(seed: int) -> None:
    rng = random.Random(seed)
    only_errors_of_ours(mutate(rng.choice(corpus()), rng))


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    only_errors_of_ours(text)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_pieces_in_any_order(pieces: list[str]) -> None:
    only_errors_of_ours("fn f(x: f32[B]) -> f32[B] {\n" + " ".join(pieces) + "\nreturn x }")
    only_errors_of_ours(" ".join(pieces))


def test_two_functions_are_parsed_as_two() -> None:
    text = corpus()[0]
    assert len(parse_all(text + text)) == 2
    with pytest.raises(TesseraError):
        parse(text + text)
