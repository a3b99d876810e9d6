"""``tile.*`` as a table of values: each operation with its signature, its sentence and what it means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn

from tessera.diag import TraceError, user_frames
from tessera.frontend.kernel import compute, memory, random
from tessera.frontend.kernel.session import KernelSession

Define = Callable[..., Any]


@dataclass(frozen=True)
class TileOp:
    """One operation of kernels. ``define`` takes the session and the arguments; ``target`` is the number of the
    argument that it gives another value, if there is one.
    """

    name: str
    define: Define
    doc: str
    target: int | None = None

    @cached_property
    def signature(self) -> inspect.Signature:
        """How it is called."""
        whole = inspect.signature(self.define)
        return whole.replace(
            parameters=[p.replace(annotation=p.empty) for p in list(whole.parameters.values())[1:]],
            return_annotation=whole.empty,
        )

    def bind(self, session: KernelSession, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The arguments in order, with defaults. Raises TraceError (TSR0404) for a call that does not fit."""
        names = self.signature.parameters
        named = {("axis" if key == "dim" and "axis" in names else key): x for key, x in kwargs.items()}
        try:
            bound = self.signature.bind(*args, **named)
        except TypeError as error:
            session.refuse(TraceError, "TSR0404", f"`tile.{self.name}`: {error}", "called here",
                           notes=[f"its signature is {self.name}{self.signature}"])  # fmt: skip
        bound.apply_defaults()
        return bound.args

    @user_frames
    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        """Refused: only kernels, which are read and not run, have tile operations (TSR0419)."""
        raise TraceError(
            f"`tile.{self.name}` outside of a kernel", code="TSR0419",
            helps=["it stands in a function under `@tessera.kernel`"],
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"tile.{self.name}{self.signature}"


class Namespace:
    """The operations of kernels, as attributes. Outside of a kernel they cannot be called; the namespace itself can, as
    the tensor operation of its name, where there is one.
    """

    def __init__(self, name: str, members: Mapping[str, Any], plain: Callable[..., Any] | None = None) -> None:
        self._name = name
        self._members = members
        self._plain = plain
        self.__doc__ = "\n".join(f"{m!r}\n    {m.doc}" for m in members.values() if isinstance(m, TileOp))

    def __getattr__(self, name: str) -> Any:
        members = self.__dict__.get("_members", {})
        if name not in members:
            raise AttributeError(f"`{self.__dict__.get('_name', 'tile')}` has no operation `{name}`")
        return members[name]

    def beside(self, plain: Callable[..., Any]) -> Namespace:
        """The same operations, beside the tensor operation of the same name."""
        return Namespace(self._name, self._members, plain)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._plain is None:
            raise TypeError(f"`{self._name}` is no function")
        return self._plain(*args, **kwargs)

    def near(self, name: str) -> list[str]:
        """Operations with names like this one."""
        return get_close_matches(name, list(self._members), n=2)

    def __dir__(self) -> list[str]:
        return sorted(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __repr__(self) -> str:
        return f"<{self._name}: {len(self._members)} operations>"


def _one(record: str) -> Define:
    def define(k: KernelSession, x: Any) -> Any:
        return k.do(record, x)

    return define


def _two(record: str) -> Define:
    def define(k: KernelSession, a: Any, b: Any) -> Any:
        return k.do(record, a, b)

    return define


_ONE = {
    "exp": "The exponential of each element.", "log": "Natural logarithm of each element.",
    "sqrt": "Square root of each element.", "rsqrt": "One over the square root of each element.",
    "abs": "Absolute value of each element.", "tanh": "Hyperbolic tangent of each element.",
    "erf": "Error function of each element.", "sigmoid": "Logistic function of each element.",
    "round": "Nearest whole number of each element, halves to the even one.",
}  # fmt: skip
_TWO = {
    "add": "Sum of each pair of elements.", "sub": "Difference of each pair of elements.",
    "mul": "Product of each pair of elements.", "div": "Quotient of each pair of elements.",
    "maximum": "The greater of each pair of elements; NaN where one is.",
    "minimum": "The smaller of each pair of elements; NaN where one is.",
}  # fmt: skip

_SUMS = "over an axis, which is dropped, or of all; f32 for narrow floats."
_REDUCED = (
    TileOp("reduce_max", compute.reduce_max, "The greatest element over an axis, which is dropped, or of all."),
    TileOp("reduce_min", compute.reduce_min, "The smallest element over an axis, which is dropped, or of all."),
    TileOp("reduce_sum", compute.reduce_sum, f"The sum {_SUMS}"),
    TileOp("reduce_mean", compute.reduce_mean, f"The mean {_SUMS}"),
)  # fmt: skip

_OPS = (
    TileOp("context", memory.context, "The sizes of the call by name, and the settings of the kernel."),
    TileOp("grid", memory.grid, "Independent iterations, in any order: of a stop, or of start, stop and step."),
    TileOp("thread_range", memory.grid, "As `grid`, with the hint that an iteration is the work of one thread."),
    TileOp("range", memory.sequential, "Iterations one after the other: of a stop, or of start, stop and step."),
    TileOp("load", memory.load, "A block of a view; beyond its end `other`, or 0 on which nothing may depend."),
    TileOp("load_broadcast", memory.load_broadcast, "A block that is aligned with others by the names of its dims."),
    TileOp("load_vector", memory.load_vector, "A block of a view with one dim."),
    TileOp("load_async", memory.load_async, "Begin to copy a view to shared memory."),
    TileOp("wait", memory.wait, "Go on once at most `n` copies are under way."),
    TileOp("store", memory.store_block, "Write a block to a view of its shape, cast to the dtype of the view."),
    TileOp("store_vector", memory.store_vector, "Write a block with one dim to a view of its shape."),
    TileOp("alloc_shared", memory.alloc_shared, "Memory that all of one iteration shares, without contents."),
    TileOp("copy", memory.copy, "Write a block to a part of shared memory, or of a block from `zeros` or `full`.", 1),
    TileOp("fill", memory.fill, "Give every element of shared memory, or of a block from `zeros`, one value.", 0),
    TileOp("zeros", memory.zeros, "A block of zeros."),
    TileOp("full", memory.full, "A block of one value."),
    TileOp("arange", compute.arange, "The integers below a stop, or from a start on."),
    TileOp("iota", compute.iota, "A block of the positions along one of its axes."),
    TileOp("cast", compute.cast, "Each element in another dtype; floats become integers toward zero and saturate."),
    TileOp("swish", compute.swish, "x · sigmoid(beta · x) of each element; 0 where x is -inf."),
    TileOp("where", compute.where, "Each element of `a` where the condition holds, else of `b`."),
    TileOp("clamp", compute.clamp, "Each element, but not below `low` nor above `high`."),
    TileOp("max", compute.reduce_max, "The greatest element over an axis, which is dropped, or of all."),
    TileOp("min", compute.reduce_min, "The smallest element over an axis, which is dropped, or of all."),
    TileOp("sum", compute.reduce_sum, f"The sum {_SUMS}"),
    TileOp("mean", compute.reduce_mean, f"The mean {_SUMS}"),
    TileOp("any", compute.any_of, "Whether an element is true, over an axis, which is dropped, or of all."),
    TileOp("all", compute.all_of, "Whether every element is true, over an axis, which is dropped, or of all."),
    *_REDUCED,
    TileOp("broadcast", compute.broadcast, "An axis of length 1 put back where a reduction dropped it."),
    TileOp("mma", compute.mma, "The matrix product, plus `acc`: f32 of floats, int32 of int8."),
    TileOp("dp4a", compute.dp4a, "acc[n] + sum over k of x[k] · w[n, k], in int32."),
    TileOp("transpose", compute.transpose, "The last two axes swapped."),
    TileOp("concat", compute.concat, "Blocks one behind the other along an axis."),
    TileOp("split", compute.split, "`n` equal parts along an axis."),
    TileOp("reshape", compute.reshape, "The same elements, row-major, in another shape; one size may be -1."),
    TileOp("mask_cols", compute.mask_cols, "Scores with `value` in the columns that stand at or behind `end`."),
    TileOp("apply_causal_mask", compute.apply_causal_mask,
           "Scores with -inf where k_start + j > q_start + i + offset; the name given has them, too.", 0),
    TileOp("dropout", random.dropout,
           "Elements dropped with probability `p`, the others scaled by 1 / (1 - p); a function of seed and position."),
    TileOp("rms_norm", compute.rms_norm, "Each row divided by the root of its mean square, in f32, times the weight."),
    TileOp("apply_rope", compute.apply_rope, "Halves, or pairs, of the last axis rotated by the angles given."),
    TileOp("cdiv", compute.cdiv, "The quotient of two sizes, rounded up."),
    *(TileOp(name, _one(name), doc) for name, doc in _ONE.items()),
    *(TileOp(name, _two(name), doc) for name, doc in _TWO.items()),
)  # fmt: skip

#: Every operation of kernels by name; `warp` holds the reductions again, with the hint of how they are done.
TILE_TABLE: Mapping[str, TileOp] = MappingProxyType({op.name: op for op in _OPS})
WARP_TABLE: Mapping[str, TileOp] = MappingProxyType({op.name: op for op in _REDUCED})

tile = Namespace("tile", MappingProxyType({**TILE_TABLE, "warp": Namespace("tile.warp", WARP_TABLE)}))
