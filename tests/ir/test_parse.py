"""IR text that does not parse: every fault is a ParseError with its code, its place and a caret, whatever the text
holds.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tessera.diag import ParseError
from tessera.ir.dialects import OPS
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.record import Kind

HEAD = "fn f(x: f32[B, D], w: f32[D]) -> f32[B, D] {\n"


def body(*lines: str) -> str:
    return HEAD + "".join(f"  {line}\n" for line in lines) + "  return x\n}\n"


def refused(text: str) -> ParseError:
    with pytest.raises(ParseError) as caught:
        parse(text)
    error = caught.value
    assert all(code in {"TSR0501", "TSR0502", "TSR0503", "TSR0505"} for code in error.codes)
    assert "\x1b" not in str(error)
    return error


CASES = [
    # (text, code, message, line, column from 1, length of the caret)
    (body("%y = exp(%z) : f32[B, D]"), "TSR0503", "`%z` is not defined before this", 2, 12, 2),
    (body("%y = exp(z) : f32[B, D]"), "TSR0503", "`z` is not defined before this", 2, 12, 1),
    (body("%x = exp(w) : f32[D]"), "TSR0503", "`%x` is defined twice", 2, 3, 2),
    (body("%y = exp(w) : f32[D]", "%y = exp(w) : f32[D]"), "TSR0503", "`%y` is defined twice", 3, 3, 2),
    (body("%a = exp(%b) : f32[D]", "%b = exp(%a) : f32[D]"), "TSR0503", "`%b` is not defined before this", 2, 12, 2),
    (body("%y = frobnicate(x) : f32[B, D]"), "TSR0502", "no operation `frobnicate`", 2, 8, 10),
    (body("%y = exp(x, w) : f32[B, D]"), "TSR0502", "`exp` takes 1 operands, not 2", 2, 8, 3),
    (body("%y = add(x) : f32[B, D]"), "TSR0502", "`add` takes 2 operands, not 1", 2, 8, 3),
    (body("%y = exp(x, fast=true) : f32[B, D]"), "TSR0502", "`exp` has no attribute `fast`", 2, 8, 3),
    (body("%y = cast(x) : f32[B, D]"), "TSR0502", "`cast` lacks the attribute `dtype`", 2, 8, 4),
    (body("%y = cast(x, dtype=3) : f32[B, D]"), "TSR0502", "attribute `dtype` of `cast` is not of kind dtype", 2, 8, 4),
    (body("%y = cast(x, dtype=f99) : f32[B, D]"), "TSR0502", "no dtype `f99`", 2, 22, 3),
    (body("%y = cast(x, dtype=f32, dtype=f16) : f32[D]"), "TSR0502", "attribute `dtype` is given twice", 2, 27, 5),
    (body("%y = exp(x) : f32[B]"), "TSR0502", "`%y` has the type `f32[B]` where `exp` gives `f32[B, D]`", 2, 8, 3),
    (body("%y = exp(x) : bf16[B, D]"), "TSR0502", "`%y` has the type `bf16[B, D]` where", 2, 8, 3),
    (body("%y = exp(x) : f33[B, D]"), "TSR0502", "no dtype `f33`", 2, 17, 9),
    (body("%y = exp(x)"), "TSR0502", "1 results and 0 types", 2, 8, 3),
    (body("%y, %z = exp(x) : f32[B, D], f32[B, D]"), "TSR0502", "`exp` has 1 results, not 2", 2, 12, 3),
    (body("%y = sum(x) over [S] keepdim : f32[B, 1]"), "TSR0502", "`S` names no axis of `f32[B, D]`", 2, 20, 3),
    (body("%y = sum(x) over (7) : f32[B]"), "TSR0502", "dim 7 of a rank-2 tensor", 2, 12, 1),
    (body("%y = add(x, w @ 2) : f32[B, D]"), "TSR0501", "found `@`", 2, 17, 1),
    (body("%y = exp(none) : f32[B, D]"), "TSR0501", "`none` is no operand", 2, 12, 4),
    (body("%y = exp(x) : f32[B, ]"), "TSR0501", "is not a dimension", 2, 17, 8),
    (body("%y = exp(`B +`) : f32[B, D]"), "TSR0501", "is not a dimension expression", 2, 12, 5),
    (body("%y = div(x, 99999999999999999999) : f32[B, D]"), "TSR0505", "integer outside 64 bits", 2, 15, 20),
    (body("%y = div(x, 9223372036854775808) : f32[B, D]"), "TSR0505", "integer outside 64 bits", 2, 15, 19),
    (body("%y = div(x, 1e999999) : f32[B, D]"), "TSR0505", "number beyond the largest f64", 2, 15, 8),
    (body("%y = cast(x, dtype=\"\\q\") : f32[B, D]"), "TSR0501", "an escape that is not known", 2, 22, 4),
    (body("map(x) -> %y { %y = exp(x) : f32[B, D]"), "TSR0501", "found the end of the text", 4, 1, 1),
    (body("map(x, w) -> %y { %y = exp(x) : f32[B, D] }"), "TSR0502", "operand that nothing inside reads", 2, 10, 1),
    (body("map() -> %y { %y = exp(x) : f32[B, D] }"), "TSR0503", "`%x` is read inside and not an operand", 2, 3, 3),
    (body("map(x) -> %x { %y = exp(x) : f32[B, D] }"), "TSR0503", "result `%x` is not defined inside", 2, 3, 3),
    (body("map(x) { %t = exp(x) : f32[B, D] }", "%u = exp(%t) : f32[D]"), "TSR0503", "is read outside the", 3, 12, 2),
    (body("%y = map(x) { %t = exp(x) : f32[B, D] }"), "TSR0501", "results of a group are named after `->`", 2, 3, 2),
    (body("%y = exp(x) -> %x : f32[B, D]"), "TSR0501", "`exp` defines no values inside", 2, 18, 2),
    (body("map(x)"), "TSR0502", "`map` has no body", 2, 3, 3),
    (body("%y = softmax(x, dim=1) : f32[B, D]"), "TSR0502", "`softmax` has no place in the tensor dialect", 2, 8, 7),
    (body("%y = load(x, index=[0]) : f32[B, D]"), "TSR0502", "`load` has no place in the tensor dialect", 2, 8, 4),
    ("fn f(x: f32[B]) -> f32[D] { return x }", "TSR0502", "result types differ from the declared ones", 1, 20, 6),
    ("fn f(x: f32[B]) { return x }", "TSR0502", "result types differ from the declared ones", 1, 4, 1),
    ("fn f(x: f32[B]) -> f32[B] { yield x }", "TSR0501", "expected `return`, found `yield`", 1, 29, 5),
    ("fn f(x: f32<i>) {}", "TSR0502", "parameter `x` of type `f32<i>` in a function of the tensor dialect", 1, 4, 1),
    ("kernel f(x: f32[B]) {}", "TSR0502", "parameter `x` of type `f32[B]` in a function of the tile dialect", 1, 8, 1),
    ("kernel f(x: in f32[B] strides [1, 2]) {}", "TSR0502", "2 strides for 1 dims", 1, 13, 24),
    ("fn f(x: f32[B], x: f32[B]) {}", "TSR0503", "`%x` is defined twice", 1, 17, 1),
    ("fn f(x: f32[B]) {} fn g(x: f32[B]) {}", "TSR0501", "a second function where one is expected", 1, 20, 2),
    ("fn f(x: f32[B]) -> f32[B]\n  where `B` = `B` proved { return x }", "TSR0501", "found `=`", 2, 13, 1),
    ("", "TSR0501", "expected `fn`, `kernel` or `program`, found the end of the text", 1, 1, 1),
    ("fn f(", "TSR0501", "found the end of the text", 1, 5, 1),
    ("42", "TSR0501", "expected `fn`, `kernel` or `program`, found `42`", 1, 1, 2),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "message", "line", "column", "length"), CASES)
def test_a_fault_has_a_code_a_message_and_a_place(
    text: str, code: str, message: str, line: int, column: int, length: int
) -> None:
    error = refused(text)
    assert error.code == code
    assert message in error.message
    span = error.spans[0]
    assert (span.line, span.column + 1, span.end_column - span.column) == (line, column, length), str(error)
    lines = str(error).splitlines()
    assert any(row.split("|", 1)[-1].strip().startswith("^" * length) for row in lines if "|" in row), str(error)


def test_the_rendering() -> None:
    error = refused(body("%sq = mul(x, x) : f32[B, D]", "%m  = mean(%sq) : f32[B]"))
    shown = str(error).splitlines()
    assert shown[0] == "error[TSR0502]: `mean` has no place in the tensor dialect"
    assert shown[1].startswith(" --> <ir ") and shown[1].endswith(":3:9")
    assert shown[2:] == ["3 |   %m  = mean(%sq) : f32[B]", "  |         ^^^^"]


def test_errors_of_a_file_point_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsr"
    path.write_text(body("%y = exq(x) : f32[B, D]"))
    with pytest.raises(ParseError) as caught:
        parse(path.read_text(), file=str(path))
    assert caught.value.spans[0].file == str(path)
    assert "%y = exq(x)" in str(caught.value)


# -- untrusted text: names, numbers and nesting without bounds


def quick(text: str, code: str) -> ParseError:
    """Refused with the code, in time that depends on nothing but the length of the text."""
    start = time.process_time()
    error = refused(text)
    assert error.code == code
    assert error.spans[0].line >= 1
    rendered = str(error)
    assert len(rendered) < 10_000
    assert time.process_time() - start < 10  # an order of magnitude above what it takes; guards against quadratic work
    return error


@pytest.mark.parametrize("mark", ["(", "[", "{", "((", "([{"])
@pytest.mark.parametrize("where", ["", HEAD, HEAD + "  %y = exp(x, a=", "fn f(x: f32["])
def test_nesting_100_000_deep(mark: str, where: str) -> None:
    assert "nested deeper than 500" in quick(where + mark * 100_000, "TSR0505").message


@pytest.mark.parametrize("mark", ["-", "+", "-1 ", "%", "@", "`", '"', '"\\', "#", "\\", ".", "0", "_", "\n", "=", ","])
def test_one_mark_100_000_times(mark: str) -> None:
    for where in (
        "",
        HEAD,
        HEAD + "  %y = exp(",
        HEAD + "  %y = exp(x, a=",
        "fn f(x: f32[B",
        "fn f(x: f32[B]) where `",
    ):
        quick(where + mark * 100_000, refused(where + mark * 100_000).code)


def test_nesting_at_the_limit_is_a_matter_of_the_grammar() -> None:
    text = body("%y = exp(x, a=" + "(" * 400 + ")" * 400 + ") : f32[B, D]")
    assert refused(text).message == "`exp` has no attribute `a`"


@pytest.mark.parametrize(
    "where",
    [
        "fn {}(x: f32[B]) {{}}",
        "fn f({}: f32[B]) {{}}",
        "fn f(x: {}[B]) {{}}",
        "fn f(x: f32[{}]) {{}}",
        "fn f(x: f32[B]) {{ %{} = exp(x) : f32[B] }}",
        "fn f(x: f32[B]) {{ %y = {}(x) : f32[B] }}",
        "fn f(x: f32[B]) {{ %y = exp(x) @{} : f32[B] }}",
    ],
)
@pytest.mark.parametrize("length", [65, 10_000_000])
def test_a_long_identifier(where: str, length: int) -> None:
    error = quick(where.format("a" * length), "TSR0505")
    assert "longer than 64 characters" in error.message


def test_a_name_of_64_characters_is_one() -> None:
    name = "a" * 64
    kind, result = f"f32[{name}]", f"%{'b' * 64}"
    text = f"fn {name}({name}: {kind}) -> {kind} {{ {result} = exp({name}) : {kind} return {result} }}"
    assert parse(print_function(parse(text))) == parse(text)


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_long_integer(digits: int) -> None:
    quick(body(f"%y = div(x, {'9' * digits}) : f32[B, D]"), "TSR0505")
    quick(f"fn f(x: f32[{'9' * 65}]) {{}}", "TSR0505")
    assert refused(f"fn f(x: f32[{'9' * digits}]) {{}}").code in ("TSR0501", "TSR0505")


def test_a_text_beyond_64_mebibytes() -> None:
    with pytest.raises(ParseError) as caught:
        parse(" " * ((64 << 20) + 1))
    assert caught.value.code == "TSR0505"


def test_a_chain_of_200_000_terms_in_a_size() -> None:
    for joint in (" + ", "*", " // ", " - "):
        error = quick(f"fn f(x: f32[{joint.join(['B'] * 200_000)}]) {{}}", "TSR0505")
        assert error.spans[0].line == 1


def test_a_chain_of_10_000_operations() -> None:
    lines = ["%v0 = exp(x) : f32[B, D]"]
    lines += [f"%v{n} = add(%v{n - 1}, 1.0) : f32[B, D]" for n in range(1, 10_000)]
    f = parse(HEAD + "\n".join(lines) + "\n return %v9999\n}")
    assert len(f.ops) == 10_000
    assert parse(print_function(f)) == f


@pytest.mark.parametrize(
    "name",
    [
        "a;system",
        "N*/",
        "N\n#include",
        "%s",
        "{0}",
        "N\0",
        "ﬁ",
        "\uff2e",
        "\u0430",
        "a\u202eb",
        "B\u200b",
        "__import__('os')",
        "a.b",
        "",
        "0a",
    ],
)
@pytest.mark.parametrize(
    "where", ["fn f(x: f32[{}]) {{}}", "fn f({}: f32[B]) {{}}", "fn {}(x: f32[B]) {{}}",
              "fn f(x: f32[B]) {{ %{} = exp(x) : f32[B] }}"]
)  # fmt: skip
def test_strange_names_are_refused(name: str, where: str) -> None:
    if where.startswith("fn f(x: f32[{}") and name == "":
        parse(where.format(name))  # rank 0
        return
    error = refused(where.format(name))
    assert all(ord(c) >= 32 or c == "\n" for c in str(error))
    assert "\u202e" not in str(error)


def test_ordinary_names_that_mean_something_elsewhere() -> None:
    for name in ("int", "restrict", "class", "self", "inf", "i", "main", "None", "import", "float"):
        f = parse(f"fn {name}({name}: f32[{name}]) -> f32[{name}] {{ %y = exp({'%' + name}) : f32[{name}] return %y }}")
        assert parse(print_function(f)) == f


@pytest.mark.parametrize(
    "statement",
    [
        '%y = extern(x, code="int main() {}") : f32[B, D]',
        '%y = exp(x, source="import os") : f32[B, D]',
        '%y = exp(x, library="/tmp/evil.so") : f32[B, D]',
        'asm("nop")',
        "import os",
        '%y = call(x, "libc.so.6") : f32[B, D]',
        '"raw"',
        '%y = "exp"(x) : f32[B, D]',
        "%y = torch.exp(x) : f32[B, D]",
        "%y = os.system(x) : f32[B, D]",
        '%y = exp("x") : f32[B, D]',
        "extern(x) -> %y { #include <stdio.h>\n }",
    ],
)
def test_no_code_and_no_library_can_be_expressed(statement: str) -> None:
    refused(body(statement))


def test_no_attribute_of_any_record_is_code_or_a_path() -> None:
    """What text may say through strings is closed: each string attribute is a word out of a documented few."""
    said = {
        (r.name, p.name)
        for r in OPS.values()
        if r.kind is not Kind.COMPOSITE
        for p in r.params
        if p.kind in ("str", "any")
    }
    words = {name for _, name in said}
    assert not words & {"code", "source", "path", "file", "library", "module", "function", "symbol", "include"}


def test_parsing_runs_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a parser starts no process")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    for text, *_ in CASES:
        with pytest.raises(ParseError):
            parse(text)
    assert list(tmp_path.iterdir()) == []


def test_comments_and_layout_do_not_matter() -> None:
    plain = parse(body("%y = exp(x) : f32[B, D]"))
    spread = HEAD.replace(" ", "\t ") + "#\n# \u202e ünï\r\n\r%y\n=\nexp\n(\nx\n,)\n:\nf32[B,\nD]   return\nx}"
    assert parse(spread) == plain
