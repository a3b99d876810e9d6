"""Text to IR: names resolved, types read, every operation checked against its record. The inverse of
``printer``.

Text is data. It can name operations of the table, values, sizes and constants, and nothing else: no file, no
library and no code has a place in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from lark import Token

from tessera.diag import Span, TesseraError
from tessera.diag.text import visible
from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dim_parse import parse_dim
from tessera.ir.dtype import DTYPES, DType
from tessera.ir.graph import Attr, Block, Function, Literal, Obligation, Operand, Operation, Value
from tessera.ir.printer import CONSTANTS, WORDS, exports
from tessera.ir.record import OpRecord
from tessera.ir.syntax import (
    BlockNode,
    Comments,
    FunctionNode,
    Group,
    Keyword,
    ObligationNode,
    Over,
    Source,
    Statement,
    Update,
)
from tessera.ir.types import BufferType, ScalarType, TensorType, TileType, Type
from tessera.ir.verify import Problem, problems

_DIALECTS = {word: dialect for dialect, word in WORDS.items()}
_RELATIONS = {"==": "eq", ">=": "ge", "divides": "divides"}
_TYPE = re.compile(
    r"(?:(scalar|in|out|temp|local|update)\s+)?([a-z][a-z0-9_]*)\s*"
    r"(?:\[([^]]*)\](?:\s*strides\s*\[([^]]*)\])?(\s*in\s+pieces)?|<([^>]*)>)?"
)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Characters of one size expression; what passes compute can be longer than what people write.
MAX_SIZE_TEXT = 1 << 16
_LOWEST, _BEYOND = -(2**63), 2**63


def parse(text: str, *, file: str | None = None) -> Function:
    """The function that a text describes; ``parse(print_function(f)) == f``.

    Raises ParseError with line and column: TSR0501 for its form, TSR0502 for an unknown or ill-typed
    operation, attribute or type, TSR0503 for a value that is undefined or defined twice, TSR0505 beyond the
    limits. With ``file`` errors point into that file.

    >>> f = parse("fn twice(x: f32[B, D]) -> f32[B, D] { %y = mul(x, 2.0) : f32[B, D] return %y }")
    >>> f.name, [op.name for op in f.ops]
    ('twice', ['mul'])
    """
    source = Source(text, file)
    functions = source.statements()
    if len(functions) > 1:
        source.fail("TSR0501", "a second function where one is expected", functions[1].kind)
    return _Reader(source, functions[0]).read()


def parse_all(text: str, *, file: str | None = None) -> tuple[Function, ...]:
    """Every function of a text, in order; raises as ``parse``."""
    source = Source(text, file)
    return tuple(_Reader(source, node).read() for node in source.statements())


@dataclass
class _Frame:
    """A block being read: what is left of it, and the statement that owns it."""

    rest: Iterator[Statement]
    node: BlockNode
    params: tuple[Value, ...]
    owner: Statement | None = None
    ops: list[Operation] = field(default_factory=list)


@dataclass
class _Reader:
    source: Source
    node: FunctionNode
    values: dict[str, Value] = field(default_factory=dict)
    places: dict[Operation, Statement] = field(default_factory=dict)
    types: dict[str, Type] = field(default_factory=dict)
    sizes: dict[str, Dim] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    spans: dict[int, Span] = field(default_factory=dict)

    def read(self) -> Function:
        node = self.node
        name = json.loads(node.name) if node.name.type == "STRING" else str(node.name)
        self._find_spans()
        params = self._params(node.params)
        body = self._body(node.body, params)
        dialect = _DIALECTS[str(node.kind)]
        updates = tuple(self._known(x.param) for x in node.body.operands if isinstance(x, Update))
        function = Function(name, body, dialect, tuple(map(self._obligation, node.where)), updates=updates)
        self._check(function)
        return function

    def _check(self, function: Function) -> None:
        for problem in problems(function):
            self._refuse(problem)
        declared = tuple(map(self._type, self.node.returns))
        found = tuple(x.type for x in function.outputs)
        if declared != found:
            what = f"returns {', '.join(map(str, found)) or 'nothing'}"
            token = self.node.returns[0] if self.node.returns else self.node.name
            self.source.fail("TSR0502", "result types differ from the declared ones", token, what)

    def _refuse(self, problem: Problem) -> None:
        statement = self.places.get(problem.op) if problem.op is not None else None
        token: Token = self.node.name if statement is None else statement.name
        if statement is not None and problem.operand is not None:
            operands = [a for a in statement.args if isinstance(a, Token)]
            token = operands[problem.operand] if problem.operand < len(operands) else token
        code = "TSR0503" if problem.about == "name" else "TSR0502"
        self.source.fail(code, problem.text, token, problem.label, problem.helps)

    def _find_spans(self) -> None:
        """The source line of each statement, from the comment that follows it."""
        ordered = list(_statements(self.node.body))
        comments = Comments(self.source.text)
        for n, statement in enumerate(ordered):
            start = statement.name.start_pos or 0
            end = _first(ordered[n + 1]).start_pos if n + 1 < len(ordered) else None
            found = comments.between(start, end)
            if found is not None:
                self.spans[id(statement)] = Span(*found)
            elif self.source.file is not None:
                name = statement.name
                self.spans[id(statement)] = Span(
                    self.source.file,
                    name.line or 1,
                    (name.column or 1) - 1,
                    name.line,
                    (name.end_column or 2) - 1,
                )

    # -- blocks and operations

    def _body(self, node: BlockNode, params: tuple[Value, ...]) -> Block:
        frames = [_Frame(iter(node.statements), node, params)]
        while True:
            frame = frames[-1]
            statement = next(frame.rest, None)
            if statement is None:
                block = Block(tuple(frame.ops), frame.params, self._exit(frame))
                if frame.owner is None:
                    return block
                frames.pop()
                frames[-1].ops.append(self._operation(frame.owner, block))
            elif statement.body is None:
                frame.ops.append(self._operation(statement, None))
            else:
                inner = self._params(statement.body.params)
                frames.append(_Frame(iter(statement.body.statements), statement.body, inner, statement))

    def _exit(self, frame: _Frame) -> tuple[Operand, ...]:
        word = "return" if frame.owner is None else "yield"
        if frame.node.exit is not None and frame.node.exit != word:
            self.source.fail("TSR0501", f"expected `{word}`, found `{frame.node.exit}`", frame.node.exit)
        given = frame.node.operands
        for before, after in pairwise(given):
            if isinstance(before, Update) and not isinstance(after, Update):
                self.source.fail("TSR0501", "what is returned stands before the updates", after)
        first = next((x for x in given if isinstance(x, Update)), None)
        if first is not None and frame.owner is not None:
            self.source.fail("TSR0501", "a step updates nothing", first.param)
        return tuple(self._operand(x.value if isinstance(x, Update) else x) for x in given)

    def _params(self, params: tuple[object, ...]) -> tuple[Value, ...]:
        return tuple(self._define(p.name, self._type(p.type)) for p in params)  # type: ignore[attr-defined]

    def _define(self, token: Token, type: Type) -> Value:
        name = token.lstrip("%")
        if name in self.values:
            self.source.fail("TSR0503", f"`%{name}` is defined twice", token, "the second definition")
        value = self.values[name] = Value(name, type)
        return value

    def _operation(self, s: Statement, body: Block | None) -> Operation:
        record = OPS.get(str(s.name))
        if record is None:
            self.source.fail("TSR0502", f"no operation `{visible(s.name)}`", s.name)
        operands = tuple(self._operand(a) for a in s.args if isinstance(a, Token))
        attrs = self._attrs(s, operands)
        op = Operation(
            record, operands, self._results(s, record, body), attrs, self.spans.get(id(s)), _origin(s), body
        )
        self.places[op] = s
        return op

    def _results(self, s: Statement, record: OpRecord, body: Block | None) -> tuple[Value, ...]:
        exporting = exports(record) and body is not None
        if s.exported and not exporting:
            self.source.fail("TSR0501", f"`{s.name}` defines no values inside", s.exported[0])
        if exporting:
            if s.results:
                self.source.fail("TSR0501", "results of a group are named after `->`", s.results[0])
            return tuple(self._known(t) for t in s.exported)
        if len(s.results) != len(s.types):
            what = f"{len(s.results)} results and {len(s.types)} types"
            self.source.fail("TSR0502", what, s.types[-1] if s.types else s.name)
        return tuple(self._define(t, self._type(k)) for t, k in zip(s.results, s.types, strict=True))

    def _attrs(self, s: Statement, operands: tuple[Operand, ...]) -> Mapping[str, Attr]:
        attrs: dict[str, Attr] = {}
        for a in s.args:
            if isinstance(a, Keyword):
                if str(a.name) in attrs:
                    self.source.fail("TSR0502", f"attribute `{a.name}` is given twice", a.name)
                attrs[str(a.name)] = self._attr(a.value)
        if s.over is not None:
            if "dim" in attrs or "keepdim" in attrs:
                self.source.fail("TSR0502", "`over` and an attribute both give the axes", s.name)
            attrs["dim"], attrs["keepdim"] = self._axes(s.over, operands), s.over.keepdim
        return attrs

    def _axes(self, over: Over, operands: tuple[Operand, ...]) -> tuple[Attr, ...]:
        if isinstance(over.axes, tuple):
            return tuple(self._number(t) for t in over.axes)
        kind = operands[0].type if operands else None
        if not isinstance(kind, TensorType):
            self.source.fail("TSR0502", "axes are named where the first operand is no tensor", over.axes)
        axes: list[int] = []
        for d in self._dims(over.axes, over.axes[1:-1]):
            if kind.dims.count(d) != 1:
                what = "no axis" if d not in kind.dims else "several axes"
                self.source.fail("TSR0502", f"`{d}` names {what} of `{kind}`", over.axes)
            axes.append(kind.dims.index(d))
        return tuple(axes)

    # -- leaves

    def _known(self, token: Token) -> Value:
        value = self.values.get(token.lstrip("%"))
        if value is None:
            self.source.fail("TSR0503", f"`{visible(token)}` is not defined before this", token)
        return value

    def _operand(self, token: Token) -> Operand:
        if token.type == "VALUE":
            return self._known(token)
        if token.type == "NUMBER":
            return Literal(self._number(token))
        if token.type == "DIM":
            return Literal(self._dim(token, token[1:-1]))
        if str(token) in CONSTANTS:
            constant = CONSTANTS[str(token)]
            if not isinstance(constant, bool | float):
                self.source.fail("TSR0501", "`none` is no operand", token)
            return Literal(constant)
        return self._known(token)

    def _attr(self, node: Token | Group) -> Attr:
        """An attribute; groups are finished from the inside out, on a stack of their own."""
        pending: list[tuple[Iterator[Token | Group], list[Attr]]] = [(iter((node,)), [])]
        while True:
            rest, done = pending[-1]
            item = next(rest, None)
            if item is None:
                pending.pop()
                if not pending:
                    return done[0]
                pending[-1][1].append(tuple(done))
            elif isinstance(item, Group):
                pending.append((iter(item.items), []))
            else:
                done.append(self._leaf(item))

    def _leaf(self, token: Token) -> Attr:
        if token.type == "NUMBER":
            return self._number(token)
        if token.type == "STRING":
            return self._string(token)
        if token.type == "DIM":
            return self._dim(token, token[1:-1])
        if token.type == "DIMS":
            return self._dims(token, token[1:-1])
        if str(token) in CONSTANTS:
            return CONSTANTS[str(token)]
        return self._dtype(token, str(token))

    def _string(self, token: Token) -> str:
        try:
            return str(json.loads(token, strict=True))
        except ValueError:
            self.source.fail("TSR0501", "a string with an escape that is not known", token)

    def _number(self, token: Token) -> int | float:
        text = str(token)
        if text.lstrip("+-").isdigit():
            if len(text) > 20 or not _LOWEST <= int(text) < _BEYOND:
                self.source.fail("TSR0505", "integer outside 64 bits", token)
            return int(text)
        value = float(text)
        if value in (float("inf"), -float("inf")) and "inf" not in text:
            self.source.fail("TSR0505", "number beyond the largest f64", token)
        return value

    def _dtype(self, token: Token, text: str) -> DType:
        found = DTYPES.get(text)
        if found is None:
            self.source.fail(
                "TSR0502", f"no dtype `{visible(text)}`", token, helps=[f"known: {', '.join(DTYPES)}"]
            )
        return found

    def _dim(self, token: Token, text: str) -> Dim:
        text = text.strip()
        known = self.sizes.get(text)
        if known is None:
            try:
                known = self.sizes[text] = parse_dim(text, MAX_SIZE_TEXT)
            except TesseraError as error:
                code = "TSR0505" if error.code == "TSR0102" else "TSR0501"
                self.source.fail(code, error.message, token, "not a size")
        return known

    def _dims(self, token: Token, text: str) -> tuple[Dim, ...]:
        return tuple(self._dim(token, part) for part in _split(text)) if text.strip() else ()

    def _type(self, token: Token) -> Type:
        known = self.types.get(token)
        if known is None:
            known = self.types[str(token)] = self._read_type(token)
        return known

    def _read_type(self, token: Token) -> Type:
        found = _TYPE.fullmatch(token)
        if found is None:
            self.source.fail("TSR0501", "not a type", token)
        role, name, dims, strides, pieces, axes = found.groups()
        element = self._dtype(token, name)
        if axes is not None:
            names = tuple(part.strip() for part in axes.split(",")) if axes.strip() else ()
            if not all(_WORD.fullmatch(n) for n in names) or len(set(names)) != len(names):
                self.source.fail("TSR0501", "axes of a block value are different names", token)
            return TileType(element, names)
        if role == "scalar":
            return ScalarType(element)
        sizes = self._dims(token, dims or "")
        if role is None:
            if pieces is not None:
                self.source.fail("TSR0502", "a tensor in pieces is a buffer: its role stands before its dtype", token)
            return TensorType(element, sizes)
        steps = None if strides is None else self._dims(token, strides)
        if steps is not None and len(steps) != len(sizes):
            self.source.fail("TSR0502", f"{len(steps)} strides for {len(sizes)} dims", token)
        return BufferType(element, sizes, role, steps, pieces is not None)

    def _obligation(self, o: ObligationNode) -> Obligation:
        left, right = (self._dim(t, t[1:-1]) for t in (o.left, o.right))
        why = self._string(o.why) if o.why is not None else ""
        return Obligation(_RELATIONS[str(o.relation)], left, right, str(o.verdict), why)


def _origin(s: Statement) -> str:
    if s.origin is None:
        return ""
    text = s.origin[1:]
    return str(json.loads(text)) if text.startswith('"') else text


def _first(s: Statement) -> Token:
    return s.results[0] if s.results else s.name


def _statements(node: BlockNode) -> Iterator[Statement]:
    """Every statement in textual order."""
    stack = [iter(node.statements)]
    while stack:
        s = next(stack[-1], None)
        if s is None:
            stack.pop()
            continue
        yield s
        if s.body is not None:
            stack.append(iter(s.body.statements))


def _split(text: str) -> Iterator[str]:
    """The parts between commas that stand outside parentheses."""
    depth = start = 0
    for mark in re.finditer(r"[(),]", text):
        if mark[0] == "(":
            depth += 1
        elif mark[0] == ")":
            depth -= 1
        elif depth == 0:
            yield text[start : mark.start()]
            start = mark.end()
    yield text[start:]
