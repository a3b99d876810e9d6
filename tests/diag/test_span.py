"""Spans: the exact place of the expression that runs, and of the parts of definitions."""

from __future__ import annotations

import copy
import functools
import pickle
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tessera.diag import Span, caller_span, definition_span, expression_parts
from tessera.diag.span import is_machinery


class Recorder:
    """A value that notes the place of every operation done with it, from a file that counts as machinery."""

    def __init__(self, spans: list[Span], machinery: tuple[str, ...]) -> None:
        self.spans = spans
        self.machinery = machinery

    def _note(self, *_: object, **__: object) -> Recorder:
        span = caller_span(self.machinery)
        assert span is not None
        self.spans.append(span)
        return self

    __add__ = __matmul__ = __mul__ = __iadd__ = __getitem__ = __neg__ = __lt__ = _note
    mean = sqrt = reshape = __call__ = _note


@pytest.fixture
def trace(tmp_path: Path) -> Callable[[str], list[Span]]:
    """Run the function `f(x, y)` of a source text; the places of its operations, in order."""

    def run(source: str) -> list[Span]:
        path = tmp_path / "user.py"
        path.write_text(source, encoding="utf-8")
        spans: list[Span] = []
        machinery = ModuleType("span_recorder")
        machinery.__file__ = __file__
        sys.modules["span_recorder"] = machinery
        try:
            value = Recorder(spans, ("tessera", "functools", "span_recorder"))
            runpy.run_path(str(path))["f"](value, value)
            for span in spans:
                assert span.file == str(path)
        finally:
            del sys.modules["span_recorder"]
        return spans

    return run


Trace = Callable[[str], list[Span]]


def test_operators_and_nested_calls(trace: Trace) -> None:
    spans = trace("def f(x, y):\n    return x @ y + (x * y).mean(dim=-1)\n")
    assert [span.text() for span in spans] == [
        "x @ y",
        "x * y",
        "(x * y).mean(dim=-1)",
        "x @ y + (x * y).mean(dim=-1)",
    ]
    assert (spans[1].line, spans[1].column, spans[1].end_column) == (2, 20, 25)
    assert str(spans[1]).endswith("user.py:2:21")
    assert spans[0].function == "f"


def test_chained_methods_over_several_lines(trace: Trace) -> None:
    spans = trace("def f(x, y):\n    return (\n        x\n        .mean(dim=-1)\n        .sqrt()\n    )\n")
    assert [(span.line, span.end_line) for span in spans] == [(4, 4), (5, 5)]
    assert [span.text() for span in spans] == ["mean(dim=-1)", "sqrt()"]


def test_an_expression_over_several_lines(trace: Trace) -> None:
    (span,) = trace("def f(x, y):\n    z = (x @\n         y)\n    return z\n")
    assert (span.line, span.column, span.end_line, span.end_column) == (2, 9, 3, 10)
    assert span.text() == "x @\n         y"


def test_columns_count_characters_not_bytes(trace: Trace) -> None:
    (span,) = trace('def f(x, y):\n    größe = "日本"; return x @ y\n')
    assert span.text() == "x @ y"
    assert span.column == len('    größe = "日本"; return ')


def test_updates_subscripts_comparisons_and_signs(trace: Trace) -> None:
    spans = trace("def f(x, y):\n    x += y\n    x[0, 1:2]\n    x < y\n    -x\n    return x\n")
    assert [span.text() for span in spans] == ["x += y", "x[0, 1:2]", "x < y", "-x"]


def test_machinery_between_the_user_and_the_operation_is_skipped(trace: Trace) -> None:
    (span,) = trace("from functools import partial, reduce\ndef f(x, y):\n    return reduce(x, [1, 2])\n")
    assert span.text() == "reduce(x, [1, 2])"


def test_tests_and_examples_are_user_code() -> None:
    span = caller_span()
    assert span is not None
    assert span.file == __file__
    assert span.text() == "caller_span()"
    assert is_machinery(sys.modules["tessera.diag.span"].__file__ or "")
    assert is_machinery("<frozen importlib._bootstrap>")
    assert not is_machinery("<ipython-input-3-abc>")


def test_no_user_frame_gives_no_span() -> None:
    everything = ModuleType("every_frame")
    everything.__path__ = ["/"]
    sys.modules["every_frame"] = everything
    try:
        found = caller_span(("every_frame",))
        # A process that was started by `python -c`, as a test worker is, has a frame without a file.
        assert found is None or found.file == "<string>"
    finally:
        del sys.modules["every_frame"]


def test_a_span_is_resolved_late_and_once() -> None:
    span = Span.at((lambda: None).__code__, 0)
    assert span._fields is None
    assert span.line > 0
    assert span._fields is not None


def test_spans_are_values() -> None:
    lazy = caller_span()
    assert lazy is not None
    written = Span(lazy.file, lazy.line, lazy.column, lazy.end_line, lazy.end_column, lazy.function)
    assert lazy == written
    assert hash(lazy) == hash(written)
    assert pickle.loads(pickle.dumps(lazy)) == written
    assert copy.deepcopy(lazy) == written
    assert written != Span(lazy.file, lazy.line)
    assert written != "elsewhere"
    assert Span("a.py", 3) == Span("a.py", 3, 0, 3, 1)
    with pytest.raises(AttributeError):
        written.line = 4  # type: ignore[misc]


def test_missing_source_is_no_error(tmp_path: Path) -> None:
    span = Span(str(tmp_path / "gone.py"), 7, 4, 7, 9)
    assert span.source_line() is None
    assert span.text() is None
    assert expression_parts(span) is None
    assert span.part(2, 3).column == 6


def test_instructions_without_columns_cover_the_line(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text("def f(x):\n    return x   \n")
    code = runpy.run_path(str(path))["f"].__code__
    bare = code.replace(co_linetable=b"")
    span = Span.at(bare, 2)
    assert (span.line, span.column, span.end_column) == (1, 0, 9)


DEFINITIONS = """
import functools

def plain(x: Tensor["B", "日"], /, y, *rest: int, flag: bool = False, **more: str) -> Tensor[
        "B",
    ]:
    return x

def passing(fn):
    return fn

@passing
@passing
def decorated(x: A): ...

class Model:
    def forward(self, x: "Tensor[B]") -> "R": ...
    @staticmethod
    def fixed(x: S): ...

    def outer(self):
        def inner(z: Z): ...
        return inner

wrapped = functools.wraps(plain)(lambda *args: None)
"""


@pytest.fixture
def definitions(tmp_path: Path) -> dict[str, Callable[..., object]]:
    path = tmp_path / "definitions.py"
    path.write_text("from __future__ import annotations\n" + DEFINITIONS, encoding="utf-8")
    return runpy.run_path(str(path))


def _text(function: Callable[..., object], name: str | None = None) -> str | None:
    span = definition_span(function, name)
    return None if span is None else span.text()


def test_annotations_of_parameters(definitions: dict[str, Callable[..., object]]) -> None:
    plain = definitions["plain"]
    assert _text(plain, "x") == 'Tensor["B", "日"]'
    assert _text(plain, "y") == "y"
    assert _text(plain, "rest") == "int"
    assert _text(plain, "flag") == "bool"
    assert _text(plain, "more") == "str"
    assert _text(plain, "return") == 'Tensor[\n        "B",\n    ]'
    assert _text(plain) == "plain"
    assert _text(plain, "nothing") is None
    assert _text(definitions["wrapped"], "x") == 'Tensor["B", "日"]'


def test_annotations_of_decorated_and_nested_functions(definitions: dict[str, Callable[..., object]]) -> None:
    assert _text(definitions["decorated"], "x") == "A"
    model = definitions["Model"]
    assert _text(model.forward, "x") == '"Tensor[B]"'
    assert _text(model().forward, "return") == '"R"'
    assert _text(model.fixed, "x") == "S"
    assert _text(model().outer(), "z") == "Z"


def test_definitions_that_cannot_be_found() -> None:
    assert definition_span(len, "obj") is None
    assert definition_span(functools.partial(print), "x") is None
    assert definition_span(lambda x: x, "x") is None


def test_a_file_that_changed_into_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def f(x: int): ...\n")
    function = runpy.run_path(str(path))["f"]
    path.write_text("def f(x: int) ...\n")
    assert definition_span(function, "x") is None


def _parts(tmp_path: Path, text: str, before: str = "    y = ") -> tuple[str, str, list[str | None]]:
    path = tmp_path / f"expression_{len(list(tmp_path.iterdir()))}.py"
    path.write_text(before + text + "\n", encoding="utf-8")
    down = text.count("\n")
    last = len(text) - text.rfind("\n") - 1 if down else len(before) + len(text)
    found = expression_parts(Span(str(path), 1, len(before), 1 + down, last))
    assert found is not None
    return found.kind, found.operator, [operand.text() for operand in found.operands]


def test_operands_of_expressions(tmp_path: Path) -> None:
    assert _parts(tmp_path, "x @ w.T") == ("binary", "@", ["x", "w.T"])
    assert _parts(tmp_path, "-x") == ("unary", "-", ["x"])
    assert _parts(tmp_path, "x <= y") == ("compare", "<=", ["x", "y"])
    assert _parts(tmp_path, "cat([a, b], dim=0)") == ("call", "cat", ["[a, b]"])
    assert _parts(tmp_path, 'Tensor["日", 1, tessera.f32]') == (
        "subscript",
        "",
        ["Tensor", '"日"', "1", "tessera.f32"],
    )
    assert _parts(tmp_path, "x[1:2]") == ("subscript", "", ["x", "1:2"])
    assert _parts(tmp_path, "x[()]") == ("subscript", "", ["x", "()"])
    assert _parts(tmp_path, "x.shape") == ("attribute", "shape", ["x"])
    assert _parts(tmp_path, "[a, b]") == ("sequence", "", ["a", "b"])
    assert _parts(tmp_path, "x +\n y") == ("binary", "+", ["x", "y"])
    assert _parts(tmp_path, "日 += y", "    ") == ("binary", "+=", ["日", "y"])
    assert _parts(tmp_path, "lambda: x") == ("other", "", [])


def test_receiver_and_keywords_of_a_call(tmp_path: Path) -> None:
    path = tmp_path / "call.py"
    path.write_text("(a + b).mean(1, keepdim=True)\n")
    found = expression_parts(Span(str(path), 1, 0, 1, 29))
    assert found is not None
    assert found.receiver is not None
    assert found.receiver.text() == "a + b"
    assert {name: span.text() for name, span in found.keywords.items()} == {"keepdim": "True"}


@pytest.mark.parametrize("text", ["return x", "x = y", "x +", "(" * 5000, "\0", ""])
def test_text_that_is_no_expression(tmp_path: Path, text: str) -> None:
    path = tmp_path / "statement.py"
    path.write_text(text + " \n")
    assert expression_parts(Span(str(path), 1, 0, 1, len(text))) is None


def test_part_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "annotation.py"
    path.write_text('x: Tensor["B", "S+"]\nz = (a,\n  b)\n')
    item = Span(str(path), 1, 15, 1, 19)
    assert item.text() == '"S+"'
    assert item.part(2, 3).text() == "+"
    several = Span(str(path), 2, 4, 3, 4)
    assert several.part(6, 7) == Span(str(path), 3, 2, 3, 3)
