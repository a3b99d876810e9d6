"""IR to text: one operation a line, with the user's names and source lines, in a form that parses back
exactly.

A name that was declared as a parameter is written bare, every computed value with a ``%``. Sizes stand in
backquotes where a value or a plain attribute is expected and in brackets where several of them are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import PurePosixPath

from tessera.diag import Span
from tessera.diag.text import visible
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Attr, Block, Function, Literal, Obligation, Operand, Operation, Value
from tessera.ir.pretty import LINE, Doc, Group, Nest, bracketed, layout, separated
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType

#: Words that are constants where a value is expected; a parameter of that name is written with a ``%``.
CONSTANTS: dict[str, Attr] = {
    "true": True, "false": False, "none": None, "inf": float("inf"), "nan": float("nan"),
}  # fmt: skip

#: How the text of a function of each dialect begins.
WORDS: dict[str, str] = {"tensor": "fn", "tile": "kernel", "block": "program"}

_INDENT = 2
_WIDEST_NAMES = 24
_WIDEST_CALL = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")


def exports(record: OpRecord) -> bool:
    """Whether the results of an operation with a body are values defined in it, rather than values of
    their own.
    """
    return record.kind in (Kind.REGION, Kind.TILE)


@dataclass(frozen=True, slots=True)
class Printed:
    """A function as text, and where each operation stands: line from 1, first and last column from 0."""

    text: str
    places: dict[Operation, tuple[int, int, int]]


def print_function(f: Function, *, spans: bool = True, width: int = 100, header: bool = True) -> str:
    """The text of a function, ending in a line end.

    ``spans`` adds the source line of each operation as a comment; ``header`` opens with what the last pass
    did; longer lines than ``width`` columns are broken between operands where they can be.
    """
    return printed(f, spans=spans, width=width, header=header).text


def printed(f: Function, *, spans: bool = True, width: int = 100, header: bool = True) -> Printed:
    """As ``print_function``, with the place of every operation."""
    return _Printer(spans, width).function(f, header)


@dataclass
class _Printer:
    spans: bool
    width: int
    lines: list[str] = field(default_factory=list)
    places: dict[Operation, tuple[int, int, int]] = field(default_factory=dict)
    params: set[Value] = field(default_factory=set)
    updates: tuple[Value, ...] = ()

    def function(self, f: Function, header: bool) -> Printed:
        if header and f.notes:
            note = f.notes[-1]
            self.lines.append(f"# {visible(note.stage)} ({note.seconds * 1e3:.2f} ms): {visible(note.text)}")
        self._head(f)
        self.updates = f.updates
        self._blocks(f)
        self.lines.append("}\n")
        return Printed("\n".join(self.lines), self.places)

    def _head(self, f: Function) -> None:
        word = WORDS.get(f.dialect, "fn")
        name = f.name if _NAME.fullmatch(f.name) else quoted(f.name)
        self.params.update(f.params)
        doc: list[Doc] = [bracketed(f"{word} {name}(", [f"{p.name}: {p.type}" for p in f.params], ")")]
        if f.outputs:
            types = [str(x.type) for x in f.outputs]
            doc += [" -> ", types[0] if len(types) == 1 else bracketed("(", types, ")")]
        if f.obligations:
            rows = separated([obligation_text(o) for o in f.obligations])
            doc.append(Nest([LINE, "where ", Nest(rows, 6)], 2))
        whole: list[Doc] = [*doc, LINE if f.obligations else " ", "{"]
        self._add(whole, 0)

    def _add(self, doc: Doc, indent: int) -> None:
        self.lines.extend((" " * indent + layout(doc, self.width, indent)).split("\n"))

    def _blocks(self, f: Function) -> None:
        """The operations of all blocks in order; the stack holds the blocks that are open."""
        open_blocks: list[_Open] = [_Open(self._rows(f.body), f.body, _INDENT)]
        while open_blocks:
            current = open_blocks[-1]
            row = next(current.rows, None)
            if row is None:
                self._close(open_blocks)
                continue
            self._op(row, current)
            body = row.op.body
            if body is not None:
                self.params.update(body.params)
                inner = current.indent + _INDENT
                if body.params:
                    self._add(bracketed("^(", [f"{p.name}: {p.type}" for p in body.params], ")"), inner)
                open_blocks.append(_Open(self._rows(body), body, inner))

    def _close(self, open_blocks: list[_Open]) -> None:
        done = open_blocks.pop()
        word = "yield" if open_blocks else "return"
        if done.block.yields:
            texts = [self.operand(x) for x in done.block.yields]
            for n, p in enumerate(() if open_blocks else self.updates, len(texts) - len(self.updates)):
                texts[n] = f"{p.name} = {texts[n]}"
            doc: Doc = [f"{word} ", Nest(Group(separated(texts)))]
            self._add(doc, done.indent)
        if open_blocks:
            self.lines.append(" " * open_blocks[-1].indent + "}")

    def _rows(self, block: Block) -> Iterator[_Row]:
        """The rows of a block; the two column widths are set before the first one is given out."""
        rows = [_Row(op, self._names(op), self._arguments(op), self._suffix(op)) for op in block.ops]
        names = max((len(r.names) for r in rows if len(r.names) <= _WIDEST_NAMES), default=0)
        calls = max((r.call for r in rows if not r.op.body and r.call <= _WIDEST_CALL), default=0)
        for row in rows:
            row.columns = (names, calls)
        return iter(rows)

    def _op(self, row: _Row, block: _Open) -> None:
        op, indent = row.op, block.indent
        names, calls = row.columns
        left = f"{row.names:<{names}} = " if row.names else " " * (names + 3) if names and not op.body else ""
        types = "" if exports(op.record) and op.body else ", ".join(str(r.type) for r in op.results)
        brace = " {" if op.body is not None else ""
        call = f"{op.name}({', '.join(row.arguments)}){row.suffix}"
        tail = (f" : {types}" if types else "") + brace
        flat = " " * indent + left + (f"{call:<{calls}}" if types and not op.body else call) + tail
        if len(flat) > self.width and len(flat) - max(calls - len(call), 0) <= self.width:
            flat = " " * indent + left + call + tail
        first = len(self.lines)
        if len(flat) <= self.width:
            self.lines.append(flat)
        else:
            left = left if row.names else ""
            doc: list[Doc] = [left, bracketed(f"{op.name}(", row.arguments, ")"), row.suffix]
            if types:
                doc += [" : ", Group(Nest(separated([str(r.type) for r in op.results])))]
            self._add([*doc, brace], indent)
        start = indent + len(left)
        self.places[op] = (first + 1, start, max(len(self.lines[first].rstrip()), start + 1))
        if self.spans and op.span is not None:
            self.lines[-1] += f"   # {span_text(op.span)}"

    def _names(self, op: Operation) -> str:
        if exports(op.record) and op.body is not None:
            return ""
        return ", ".join(f"%{r.name}" for r in op.results)

    def _arguments(self, op: Operation) -> list[str]:
        hidden = ("dim", "keepdim") if folded_axes(op) is not None else ()
        order = {name: n for n, name in enumerate(op.record.attr_names)}
        attrs = sorted(op.attrs.items(), key=lambda item: order.get(item[0], len(order)))
        return [self.operand(x) for x in op.operands] + [
            f"{name}={attr_text(value)}" for name, value in attrs if name not in hidden
        ]

    def _suffix(self, op: Operation) -> str:
        """What stands between the closing parenthesis and the types."""
        text = ""
        axes = folded_axes(op)
        if axes is not None:
            text = f" over {axes}" + (" keepdim" if op.attrs["keepdim"] else "")
        if op.origin:
            text += f" @{op.origin if _DOTTED.fullmatch(op.origin) else quoted(op.origin)}"
        if exports(op.record) and op.body is not None and op.results:
            text += f" -> {', '.join(f'%{r.name}' for r in op.results)}"
        return text

    def operand(self, x: Operand) -> str:
        if isinstance(x, Literal):
            return attr_text(x.value)
        return x.name if x in self.params and x.name not in CONSTANTS else f"%{x.name}"


@dataclass(slots=True)
class _Open:
    rows: Iterator[_Row]
    block: Block
    indent: int


@dataclass(slots=True)
class _Row:
    """The parts of one operation; ``columns`` are the widths that align it with its neighbours."""

    op: Operation
    names: str
    arguments: list[str]
    suffix: str
    columns: tuple[int, int] = (0, 0)

    @property
    def call(self) -> int:
        """Columns of the call when it stands on one line."""
        return (
            len(self.op.name)
            + 2
            + sum(map(len, self.arguments))
            + 2 * max(len(self.arguments) - 1, 0)
            + len(self.suffix)
        )


def folded_axes(op: Operation) -> str | None:
    """The folded axes of a reduction as text, by name where that says which ones; None where attributes
    say it better.
    """
    axes, keep = op.attrs.get("dim"), op.attrs.get("keepdim")
    if (
        op.record.kind is not Kind.REDUCE
        or not isinstance(axes, tuple)
        or not isinstance(keep, bool)
        or not op.operands
    ):
        return None
    kind = op.operands[0].type
    numbers = [a for a in axes if isinstance(a, int) and not isinstance(a, bool)]
    ascending = all(a < b for a, b in pairwise(numbers))
    if not isinstance(kind, TensorType) or len(numbers) != len(axes) or not ascending:
        return None
    if numbers and numbers[0] >= 0 and numbers[-1] < kind.rank:
        dims = [kind.dims[a] for a in numbers]
        if all(not d.is_const and kind.dims.count(d) == 1 for d in dims):
            return f"[{', '.join(map(str, dims))}]"
    return f"({', '.join(map(str, numbers))})"


def obligation_text(o: Obligation) -> str:
    """``\\`D\\` == \\`K\\` guarded "why"``."""
    relation = {"eq": "==", "ge": ">="}.get(o.kind, o.kind)
    return f"`{o.left}` {relation} `{o.right}` {o.verdict}" + (f" {quoted(o.why)}" if o.why else "")


def quoted(text: str) -> str:
    """A string in ASCII with everything unprintable escaped.

    >>> print(quoted('a"\\n\\u202e'))
    "a\\"\\n\\u202e"
    """
    return json.dumps(text, ensure_ascii=True).replace("\x7f", "\\u007f")


def span_text(span: Span) -> str:
    """``norms.py:7``."""
    return f"{visible(PurePosixPath(span.file.replace(chr(92), '/')).name)}:{span.line}"


def attr_text(value: Attr) -> str:
    """An attribute or a constant operand as text.

    >>> attr_text((1, -0.0, True, None, "s")), attr_text((2,)), attr_text(1e-6)
    ('(1, -0.0, true, none, "s")', '(2,)', '1e-06')
    """
    out: list[str] = []
    pending: list[Attr | _Raw] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, _Raw):
            out.append(item.text)
        elif isinstance(item, tuple) and not _all_dims(item):
            out.append("(")
            pending.append(_Raw(",)" if len(item) == 1 else ")"))
            between: list[Attr | _Raw] = list(chain.from_iterable((_COMMA, x) for x in item))
            pending.extend(reversed(between[1:]))
        else:
            out.append(_leaf(item))
    return "".join(out)


@dataclass(frozen=True, slots=True)
class _Raw:
    text: str


_COMMA = _Raw(", ")


def _all_dims(items: Sequence[Attr]) -> bool:
    return bool(items) and all(isinstance(x, Dim) for x in items)


def _leaf(item: Attr) -> str:
    if item is None or isinstance(item, bool):
        return {None: "none", True: "true", False: "false"}[item]
    if isinstance(item, tuple):
        return f"[{', '.join(map(str, item))}]"
    if isinstance(item, str):
        return quoted(item)
    if isinstance(item, Dim):
        return f"`{item}`"
    return item.name if isinstance(item, DType) else repr(item)
