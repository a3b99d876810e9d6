"""Op records: one frozen value per operation, from which everything else is derived.

A record says what the op is called, how it is called, what its result types are, and what it computes: over scalars
(Map), as a fold (Reduce), as an index map (View, Index, Create, Random) or in terms of other records (Composite).
Proxies, verifier, printer, interpreter, backends, docs and tests read the record; nothing else knows an op by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Attr, Literal, Operation
from tessera.ir.types import TensorType, Type

if TYPE_CHECKING:
    from tessera.ir.derive import Derivative
    from tessera.ir.infer import InferContext


class Kind(Enum):
    """What an op is to the scheduler and to every backend. Backends dispatch on this, never on a name."""

    MAP = "map"  # one scalar in, one scalar out, at each point
    REDUCE = "reduce"  # a fold over some axes
    SCAN = "scan"  # a fold that keeps every prefix
    CONTRACT = "contract"  # sum of products
    VIEW = "view"  # every result element is one operand element, or a constant, chosen by position
    INDEX = "index"  # as VIEW, but the position depends on integer data
    CREATE = "create"  # a function of the position alone
    RANDOM = "random"  # a function of the position and of a seed
    CONTROL = "control"  # a body of operations, carried out as often as the op says
    COLLECTIVE = "collective"
    EXTERN = "extern"  # a library call on whole tensors
    COMPOSITE = "composite"  # written in terms of other records; never appears in the IR
    REGION = "region"  # a group of operations that becomes one kernel
    TILE = "tile"  # loads, stores and loops of the tile dialect


class Law(Enum):
    """How the result of a MAP op follows when an operand is shifted or scaled: what algebra knows of the op."""

    NONE = "none"
    SUM = "sum"  # shifts add up; what both operands are multiplied by can be taken out
    DIFFERENCE = "difference"  # as SUM, the second shift reversed
    PRODUCT = "product"  # factors multiply
    QUOTIENT = "quotient"  # as PRODUCT, the second factor inverted
    POWER = "power"  # a shift becomes the factor that the op gives for it; 0 at -inf
    CHOICE = "choice"  # one of the last two operands, as the first one says
    SAME = "same"  # the operand itself, rounded at most
    AND = "and"  # logic and order, for conditions on positions
    OR = "or"
    NOT = "not"
    LESS = "less"
    AT_MOST = "at most"
    GREATER = "greater"
    AT_LEAST = "at least"
    EQUAL = "equal"


class ScalarNamespace(Protocol):
    """What a scalar definition computes with: one function per intrinsic, called as ``t.exp(x)``.

    Values support Python's arithmetic and comparison operators. NumPy (reference), torch and the tile builder
    each provide one.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]: ...


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of an op.

    ``kind`` is ``tensor``, ``tensor?`` (may be None), ``tensors`` (a sequence), or the kind of a static attribute:
    ``int``, ``float``, ``bool``, ``str``, ``dtype``, ``number``, ``dim`` (an axis), ``dims`` (axes, or None for all),
    ``size``, ``sizes`` (Dims or ints), ``any``. ``takes`` are the dtypes that a tensor may have, see
    ``ir/dialects/takes.py``.
    """

    name: str
    kind: str
    default: Any = ...
    variadic: bool = False
    keyword_only: bool = False
    takes: str = ""

    @property
    def required(self) -> bool:
        return self.default is ... and not self.variadic

    @property
    def is_operand(self) -> bool:
        return self.kind.startswith("tensor")


_DEFAULTS: Mapping[str, Any] = {"None": None, "True": True, "False": False}


def parse_signature(text: str) -> tuple[Param, ...]:
    """Parameters from ``"x: tensor, *sizes: size, dim: dims = None, *, keepdim: bool = False"``."""
    params: list[Param] = []
    keyword_only = False
    for part in filter(None, (p.strip() for p in text.split(","))):
        if part == "*":
            keyword_only = True
            continue
        head, _, default = part.partition("=")
        name, _, kind = head.partition(":")
        variadic = name.startswith("*")
        kind, _, takes = kind.strip().partition(" ")
        params.append(Param(name.strip("* "), kind, _default(default.strip()), variadic, keyword_only, takes))
        keyword_only = keyword_only or variadic
    return tuple(params)


def _default(text: str) -> Any:
    if not text:
        return ...
    if text in _DEFAULTS:
        return _DEFAULTS[text]
    if text[0] in "'\"":
        return text[1:-1]
    return float(text) if any(c in text for c in ".einf") else int(text)


@dataclass(frozen=True, slots=True)
class Reduction:
    """A fold: how a Reduce op turns a stream of elements into its results.

    ``init(dtype)`` gives the start state (numbers) for elements of ``dtype``; ``step(t, state, x, index)`` takes one
    element (``index`` is its position along the merged reduced axis, row-major); ``merge(t, a, b)`` joins the states
    of two ranges, a before b; ``finish(t, state)`` gives the results. ``state(dtype)`` lists the dtypes of the state.
    ``identity`` says that the fold of no elements means something; where it does not, a call needs at least one.
    ``additive`` says that the state is a plain sum, so that a backend may carry it in a wider float. ``regroups`` says
    that folding the results of parts gives the result of the whole (sum, prod, max; not argmax). ``rounds`` says that
    the state of every element counts where it is a result (SCAN) and is better carried in a wider float.
    ``one(t, x, index)`` is the state of a single element, where that is less work than a step from the start.
    """

    init: Callable[[DType], tuple[bool | int | float, ...]]
    step: Callable[[Any, tuple[Any, ...], Any, Any], tuple[Any, ...]]
    merge: Callable[[Any, tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]
    state: Callable[[DType], tuple[DType, ...]]
    finish: Callable[[Any, tuple[Any, ...]], tuple[Any, ...]] = lambda t, state: state
    additive: bool = False
    regroups: bool = False
    identity: bool = True
    rounds: bool = False
    one: Callable[[Any, Any, Any], tuple[Any, ...]] | None = None

    @property
    def adds_up(self) -> bool:
        """Is the fold of a whole the sum of the folds of its parts?"""
        return self.additive and self.regroups


@dataclass(frozen=True, slots=True)
class Lookup:
    """An index that is read from memory: element ``index`` of operand ``operand`` (an integer tensor).

    Values lie in [0, size) of the axis they index; with ``wraps`` those in [-size, 0) count from its end. Others are
    an error while running.
    """

    operand: int
    index: tuple[Dim, ...]
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """Operand ``index`` holds positions along ``axis`` of operand ``table``, with the bounds of a ``Lookup``."""

    index: int
    table: int
    axis: int
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a box of a View or Index result comes from.

    ``operand`` is the operand's number, or a Literal for a constant fill; ``index`` the element to read, as Dims over
    the result's index names, or a Lookup. The piece covers the positions with ``lo <= result_index[axis] < hi`` for
    each ``(axis, lo, hi)`` in ``box``; the first piece whose box holds wins, and the last one has no box.
    """

    operand: int | Literal
    index: tuple[Dim | Lookup, ...] = ()
    box: tuple[tuple[int, Dim, Dim], ...] = ()


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Where an op is another one, to the bit: with the constants ``where`` (operand number, value) it equals operand
    ``to``, or the op ``to`` = (name, operand numbers).
    """

    where: tuple[tuple[int, float], ...]
    to: int | tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One call that tests and docs make: tensors as (shape, dtype) or nested values, see ``ir/dialects/samples.py``."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


Infer = Callable[["InferContext", tuple[Type, ...], Mapping[str, Attr]], tuple[TensorType, ...]]


@dataclass(frozen=True, eq=False)
class OpRecord:
    """An operation. See the module docstring; which of the definition fields is set follows from ``kind``.

    - ``infer``: dim and dtype rule, raising through its context. It may assume that ``operands_as`` was honoured.
    - ``operands_as(operand_types)``: the dtype each tensor operand is cast to before the op (None leaves it alone),
      so that
      every conversion stands in the IR as a ``cast``.
    - ``define``: MAP: ``define(t, *scalars, **attrs)``; None makes it an intrinsic, a row of each backend's table.
      CREATE, RANDOM: ``define(t, index, result_type, *scalars, **attrs)`` with ``index`` one int64 value an axis.
      COMPOSITE: ``define(T, *args, **kwargs)`` over tensors, ``T`` having every record as a function.
      CONTROL: ``define(t, step, op, operands)``: ``step`` takes the block parameters and gives what the body yields,
      ``t`` offers ``size(x, axis)``, ``select(x, axis, n)``, ``stack(rows, result)`` (along a new first axis) and
      ``rows(x, axis, n, count, reverse)``: the ``n``-th ``count`` slices, counted from either end, 0 beyond the other.
    - ``infer_body(context, op)``: CONTROL: what ``infer`` is to others, with the rules of the body's form.
    - ``reduction``: REDUCE (attrs ``dim`` — a sorted tuple of axes — and ``keepdim``) and SCAN (``dim`` — one axis).
    - ``pieces(result_index, operand_types, result_type, attrs)``: VIEW and INDEX.
    - ``reference(*arrays, **attrs)``: NumPy oracle where the definition does not give one (CONTRACT, SCAN, EXTERN).
    - ``accesses(attrs)``: EXTERN: the operands whose values are positions in others.
    - ``adds(attrs)``: EXTERN: the axis along which the op adds the third operand to the first at the positions that the
      second holds, and does nothing else; None where it does something else.
    - ``call(T, *args, **kwargs)``: what a call written by a user does, where that is more than binding the signature:
      it makes the attributes canonical (non-negative axes, solved sizes), and ends in ``T.emit(name, operands,
      **attrs)``.
    - ``torch``: dotted names of the torch callables that mean this op; the first is what eager runs.
    - ``eager(torch, *operands, **attrs)``: how torch computes the canonical form, where that is not simply the
      first name.
    - ``rewrites``: constants with which the op is another one. Only what changes no bit of any result: not ``x + 0``
      (turns -0.0 into 0.0), not ``x * 0`` (NaN, infinity), not ``pow(x, 0.5)`` (``sqrt`` differs at -0.0 and -inf).
    - ``lead(operand_types, attrs, sizes)``: VIEW: the attributes with which the op does the same to tensors that have
      dims of these sizes in front, or None; without it, axes are counted on.
    - ``law``: MAP: how the result moves with its operands, see ``Law``.
    - ``derivative``: the cotangents of the operands from those of the results, see ``ir/derive.py``; without one a
      float result cannot be differentiated.
    - ``domain``: interval of inputs on which samples are drawn. ``flops``: arithmetic operations per element.
    """

    name: str
    kind: Kind
    signature: str
    doc: str
    infer: Infer | None = None
    operands_as: Callable[[tuple[Type, ...]], tuple[DType | None, ...]] | None = None
    define: Callable[..., Any] | None = None
    reduction: Reduction | None = None
    pieces: Callable[[Sequence[Dim], Sequence[Type], TensorType, Mapping[str, Attr]], tuple[Piece, ...]] | None = None
    reference: Callable[..., Any] | None = None
    accesses: Callable[[Mapping[str, Attr]], tuple[Access, ...]] | None = None
    adds: Callable[[Mapping[str, Attr]], int | None] | None = None
    torch: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    call: Callable[..., Any] | None = None
    eager: Callable[..., Any] | None = None
    samples: Callable[[], Iterable[Sample]] | None = None
    rewrites: tuple[Rewrite, ...] = ()
    law: Law = Law.NONE
    domain: tuple[float, float] = (-4.0, 4.0)
    flops: int = 1
    example: str = ""
    infer_body: Callable[[InferContext, Operation], tuple[TensorType, ...]] | None = None
    derivative: Derivative | None = None
    lead: Callable[[Sequence[Type], Mapping[str, Attr], tuple[Dim, ...]], Mapping[str, Attr] | None] | None = None

    @cached_property
    def params(self) -> tuple[Param, ...]:
        return parse_signature(self.signature)

    @cached_property
    def attr_names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.params if not p.is_operand)

    def __repr__(self) -> str:
        return f"OpRecord({self.name})"
