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
from tessera.frontend.kernel import attention, compute, memory, random
from tessera.frontend.kernel.session import KernelSession

Define = Callable[..., Any]


@dataclass(frozen=True)
class TileOp:
    """One operation of kernels. ``define`` takes the session and the arguments; ``target`` is the number of the
    argument that it gives another value, ``place`` that of the one which says where it writes, if there are such.
    """

    name: str
    define: Define
    doc: str
    target: int | None = None
    place: int | None = None

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


def _op(name: str, define: Define, target: int | None = None, place: int | None = None) -> TileOp:
    """An operation whose sentence is that of its definition."""
    return TileOp(name, define, (define.__doc__ or "").splitlines()[0], target, place)


_REDUCED = (
    _op("reduce_max", compute.reduce_max),
    _op("reduce_min", compute.reduce_min),
    _op("reduce_sum", compute.reduce_sum),
    _op("reduce_mean", compute.reduce_mean),
)  # fmt: skip

_OPS = (
    _op("context", memory.context),
    _op("grid", memory.grid),
    _op("thread_range", memory.grid),
    _op("range", memory.sequential),
    _op("load", memory.load),
    _op("load_broadcast", memory.load_broadcast),
    _op("load_vector", memory.load_vector),
    _op("load_async", memory.load_async, place=1),
    _op("wait", memory.wait),
    _op("store", memory.store_block, place=0),
    _op("store_vector", memory.store_vector, place=0),
    _op("atomic_add", memory.atomic_add, place=0),
    _op("inplace", memory.inplace),
    _op("debug_print", memory.debug_print),
    _op("alloc_shared", memory.alloc_shared),
    _op("copy", memory.copy, target=1, place=1),
    _op("fill", memory.fill, target=0, place=0),
    _op("zeros", memory.zeros),
    _op("full", memory.full),
    _op("arange", compute.arange),
    _op("iota", compute.iota),
    _op("cast", compute.cast),
    _op("swish", compute.swish),
    _op("where", compute.where),
    _op("clamp", compute.clamp),
    _op("max", compute.reduce_max),
    _op("min", compute.reduce_min),
    _op("sum", compute.reduce_sum),
    _op("mean", compute.reduce_mean),
    _op("any", compute.any_of),
    _op("all", compute.all_of),
    *_REDUCED,
    _op("broadcast", compute.broadcast),
    TileOp("mma", compute.mma, "The matrix product, plus `acc`: f32 of floats, int32 of int8."),
    _op("dp4a", compute.dp4a),
    _op("transpose", compute.transpose),
    _op("concat", compute.concat),
    _op("split", compute.split),
    _op("reshape", compute.reshape),
    _op("mask_cols", compute.mask_cols),
    _op("apply_causal_mask", compute.apply_causal_mask, target=0),
    TileOp("dropout", random.dropout,
           "Elements dropped with probability `p`, the others scaled by 1 / (1 - p); a function of seed and position."),
    _op("rms_norm", compute.rms_norm),
    _op("flash_attention", attention.flash_attention),
    TileOp("apply_rope", compute.apply_rope, "Halves, or pairs, of the last axis rotated by the angles given."),
    _op("cdiv", compute.cdiv),
    *(TileOp(name, _one(name), doc) for name, doc in _ONE.items()),
    *(TileOp(name, _two(name), doc) for name, doc in _TWO.items()),
)  # fmt: skip

#: Every operation of kernels by name; `warp` holds the reductions again, with the hint of how they are done.
TILE_TABLE: Mapping[str, TileOp] = MappingProxyType({op.name: op for op in _OPS})
WARP_TABLE: Mapping[str, TileOp] = MappingProxyType({op.name: op for op in _REDUCED})

tile = Namespace("tile", MappingProxyType({**TILE_TABLE, "warp": Namespace("tile.warp", WARP_TABLE)}))
