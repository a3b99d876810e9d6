"""Hypothesis strategies: well-typed functions grown from the op records, with odd names, spans, origins and notes.

``functions()`` grows a chain of elementwise ops, reductions, scans and views over a few parameters; every call goes
through the record's own rules, and what they refuse is left out. ``sampled()`` gives the records' own sample calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tessera.diag import Span, TesseraError
from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.dialects.calls import Ops, Sym
from tessera.ir.dim import Dim
from tessera.ir.dtype import DTYPES, DType
from tessera.ir.graph import Block, Function, Literal, Note, Obligation, Value
from tessera.ir.infer import Refused
from tessera.ir.interp.convert import Array, round_to, settle
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import ScalarType, TensorType
from tests.fuzz.build import Case, every_sample, function_of

#: What the names of generated shapes stand for when a function runs.
SIZES = {"B": 2, "S": 5, "D": 4, "N": 3, "inf": 6}

NAMES = ["x", "y", "inf", "nan", "true", "none", "over", "where", "fn", "return", "keepdim", "f32", "_", "a1", "Z" * 64]
_DIMS = [*map(Dim.name, SIZES), Dim.const(1), Dim.const(3), Dim.name("B") * Dim.name("D"), Dim.name("S") + 1]
_FLOATS = [DTYPES[n] for n in ("f32", "f32", "f32", "bf16", "f64", "f16")]
_DTYPES = [*_FLOATS, *(DTYPES[n] for n in ("int64", "int32", "bool"))]

_ELEMENTWISE = [
    r for r in OPS.values()
    if r.kind is Kind.MAP and r.torch and all(p.is_operand for p in r.params) and len(r.params) <= 3
]  # fmt: skip
_FOLDS = [r for r in OPS.values() if r.kind is Kind.REDUCE]
_SCANS = [r for r in OPS.values() if r.kind is Kind.SCAN]
_COMPOSITES = [OPS[n] for n in ("softmax", "mean", "logsumexp", "sigmoid", "silu") if n in OPS]

numbers = st.one_of(
    st.integers(-5, 5),
    st.floats(-4, 4, allow_nan=False, allow_subnormal=False, width=32),
    st.sampled_from([0.0, -0.0, 1e-30, float("inf"), float("-inf"), float("nan"), True, False]),
    st.sampled_from(_DIMS),
)


@dataclass
class _Grower:
    """A function being grown; ``pool`` holds the values so far."""

    draw: Any
    ops: Ops = field(default_factory=lambda: Ops(Builder(OPS["cast"]), OPS))
    params: list[Value] = field(default_factory=list)
    pool: list[Any] = field(default_factory=list)

    def param(self) -> None:
        dtype = self.draw(st.sampled_from(_DTYPES))
        if self.draw(st.integers(0, 5)) == 0:
            kind: Any = ScalarType(dtype)
        else:
            kind = TensorType(dtype, tuple(self.draw(st.lists(st.sampled_from(_DIMS), max_size=3))))
        v = self.ops.builder.param(self.draw(st.sampled_from(NAMES)), kind)
        self.params.append(v)
        self.pool.append(Sym(self.ops, v))

    def value(self) -> Any:
        return self.draw(st.sampled_from(self.pool))

    def tensor(self) -> Any:
        return self.draw(st.sampled_from([x for x in self.pool if self.ops.is_tensor(x)] or self.pool))

    def step(self) -> None:
        """One more call; what the rules refuse, or what would not run with SIZES, leaves nothing behind."""
        builder = self.ops.builder
        before, asked = len(builder.ops), dict(builder.context.obligations)
        builder.context.span = self.draw(spans)
        try:
            found = self.draw(st.sampled_from([self.elementwise, self.fold, self.scan, self.view, self.composite]))()
        except (Refused, TesseraError, TypeError, ValueError, AssertionError):
            del builder.ops[before:]
            return
        if not all(o.holds(SIZES) for o in builder.context.obligations.values()):
            del builder.ops[before:]
            builder.context.obligations = asked
            return
        self.pool.extend(x for x in (found if isinstance(found, tuple | list) else [found]) if isinstance(x, Sym))

    def elementwise(self) -> Any:
        record: OpRecord = self.draw(st.sampled_from(_ELEMENTWISE))
        args = [self.tensor()]
        while len(args) < len(record.params):
            args.append(self.draw(numbers) if self.draw(st.booleans()) else self.value())
        return self.ops.invoke(record, *args)

    def fold(self) -> Any:
        x = self.tensor()
        rank = self.ops.type_of(x).rank
        dim = self.draw(st.one_of(st.none(), st.integers(0, max(rank - 1, 0))))
        return self.ops.invoke(self.draw(st.sampled_from(_FOLDS)), x, dim, self.draw(st.booleans()))

    def scan(self) -> Any:
        x = self.tensor()
        dim = self.draw(st.integers(0, max(self.ops.type_of(x).rank - 1, 0)))
        return self.ops.invoke(self.draw(st.sampled_from(_SCANS)), x, dim)

    def view(self) -> Any:
        x = self.tensor()
        dims = self.ops.dims(x)
        t = self.ops
        which = self.draw(st.integers(0, 5))
        if which == 0:
            return t.permute(x, *self.draw(st.permutations(range(len(dims)))))
        if which == 1:
            return t.unsqueeze(x, self.draw(st.integers(0, len(dims))))
        if which == 2:
            return t.reshape(x, -1)
        if which == 3:
            return t.flip(x, (0,))
        if which == 4:
            return t.cat((x, x), 0)
        return t.expand(x, self.draw(st.sampled_from(_DIMS)), *dims)

    def composite(self) -> Any:
        record = self.draw(st.sampled_from(_COMPOSITES))
        x = self.tensor()
        return self.ops.invoke(record, x, -1) if "dim" in record.signature else self.ops.invoke(record, x)


_files = st.sampled_from(["norms.py", "a b.py", "dir/x.py", "ü.py", 'q".py', "<stdin>", "C:\\m.py"])
spans = st.one_of(st.none(), st.builds(Span, _files, st.integers(1, 10**6)))
texts = st.one_of(st.text(max_size=12), st.sampled_from(['"', "\\", "\n", "\u202e", "\x00", "é", "%s", "*/", "\ud800"]))
obligations = st.builds(
    Obligation,
    st.sampled_from(["eq", "divides", "ge"]),
    st.sampled_from(_DIMS),
    st.sampled_from(_DIMS),
    st.sampled_from(["open", "proved", "guarded", "assumed"]),
    texts,
)
notes = st.builds(Note, texts, st.floats(0, 1), texts)


@st.composite
def functions(draw: Any, max_ops: int = 12, dressed: bool = True) -> Function:
    """A function that verifies: 1 to 4 parameters, up to ``max_ops`` calls, 0 to 5 results.

    ``dressed`` adds what has no bearing on its results: odd origins, further obligations, notes, a strange name.
    """
    grower = _Grower(draw)
    for _ in range(draw(st.integers(1, 4))):
        grower.param()
    for _ in range(draw(st.integers(0, max_ops))):
        grower.step()
    values = [x.value for x in grower.pool]
    outputs: Sequence[Any] = draw(st.lists(st.sampled_from(values), max_size=2))
    if draw(st.integers(0, 4)):
        outputs = [*outputs, *values[-2:]]  # what was made last, so that little of the function is dead
    if draw(st.integers(0, 9)) == 0:
        outputs = [*outputs, Literal(draw(numbers))]
    builder = grower.ops.builder
    body = Block(tuple(builder.ops), tuple(grower.params), tuple(outputs))
    f = Function("f", body, obligations=tuple(builder.context.obligations.values()))
    return draw(_dressed(f)) if dressed else f


@st.composite
def _dressed(draw: Any, f: Function) -> Function:
    """The function with what does not change what it computes."""
    ops = tuple(replace(op, origin=draw(texts)) if draw(st.integers(0, 4)) == 0 else op for op in f.ops)
    return replace(
        f.with_ops(ops), name=draw(st.one_of(st.sampled_from(["f", "../../x", "$(id)", "-o", "fn"]), texts)),
        obligations=(*f.obligations, *draw(st.lists(obligations, max_size=3))),
        notes=tuple(draw(st.lists(notes, max_size=2))),
    )  # fmt: skip


def inputs_for(f: Function, seed: int = 0) -> list[Array]:
    """Random contents for the parameters of a generated function."""
    rng = np.random.default_rng(seed)
    return [_random(p.type.dtype, [d.evaluate(SIZES) for d in p.type.dims], rng) for p in f.params]


def _random(t: DType, shape: Sequence[int], rng: np.random.Generator) -> Array:
    if t.is_float:
        return round_to(rng.uniform(-3, 3, shape), t)
    return settle(rng.integers(0, 2 if t.is_bool else 5, shape), t)


@st.composite
def sampled(draw: Any) -> Case:
    """The function of one of the records' sample calls."""
    _, _, record, sample = draw(st.sampled_from(every_sample()))
    return function_of(record, sample)
