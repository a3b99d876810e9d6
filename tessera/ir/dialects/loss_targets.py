"""What losses ask of their targets: the sizes and the dtypes that fit the scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.ir.dialects.composite_reduce import need_float
from tessera.ir.dialects.fits import need_one_rank, need_shape
from tessera.ir.dialects.index import need_index
from tessera.ir.dialects.takes import need_same
from tessera.ir.dtype import int64, uint8
from tessera.ir.infer import Blame


def alike(t: Any, x: Any, target: Any) -> None:
    """Targets of the very sizes of what they are compared with: nothing broadcasts (TSR0204, TSR0215)."""
    need_float(t, target, "targets", 1)
    _need_sizes(t, x, target, range(len(t.dims(x))), "targets", "values")


def _need_sizes(
    t: Any, x: Any, target: Any, axes: Sequence[int], what: str, of: str, helps: Sequence[str] = ()
) -> None:
    """Targets with the sizes that these axes of the first operand have, in order (TSR0204, TSR0215)."""
    dims, have = t.dims(x), t.dims(target)
    if len(axes) != len(have):
        t.fail("TSR0204", f"{what} of rank {len(have)} for {of} of rank {len(dims)}",
               Blame(1, None, f"has rank {len(have)}"), Blame(0, None, f"has rank {len(dims)}"),
               helps=helps)  # fmt: skip
    for n, (axis, b) in enumerate(zip(axes, have, strict=True)):
        a = dims[axis]
        t.context.equal(a, b, "TSR0215", f"targets of size `{b}` for {of} of size `{a}`", Blame(1, n, f"`{b}`"),
                        Blame(0, axis, f"`{a}`"))  # fmt: skip


def apart(t: Any, x: Any, target: Any) -> Any:
    """The difference; a mask as target counts as 0 and 1."""
    return t.emit("sub", (x, target))


def class_axis(t: Any, x: Any) -> int:
    """The axis of the scores that counts classes: 1 behind a batch, else 0."""
    return 1 if t.type_of(x).rank > 1 else 0


def check_classes(t: Any, x: Any, target: Any, weight: Any) -> None:
    """The target has the shape of the scores without the class axis."""
    dims, axis = t.dims(x), class_axis(t, x)
    need_one_rank(t, x, range(1, 65), "scores")
    others = [n for n in range(len(dims)) if n != axis]
    helps = ["scores are [N, C, …] and targets [N, …]; flatten the leading dims"]
    _need_sizes(t, x, target, others, "class targets", "scores", helps)
    if not t.dtype_of(target).is_int:
        t.fail("TSR0304", f"class targets of dtype `{t.dtype_of(target)}`", Blame(1, None, f"is {t.dtype_of(target)}"),
               helps=["cast them with `.long()`"])  # fmt: skip
    need_index(t, target, 1, "class numbers", (int64, uint8) if len(dims) < 3 else (int64,))
    need_shape(t, weight, (dims[axis],), "class weights")
    if weight is not None:
        need_same("weighted classes", t.operand(x), t.operand(weight))


def check_probabilities(t: Any, x: Any, target: Any) -> None:
    """A float target has the shape of the scores; one without the class axis was meant as class numbers."""
    dims, have, dtype = t.dims(x), t.dims(target), t.dtype_of(target)
    if len(have) == len(dims) - 1:
        t.fail("TSR0304", f"class targets of dtype `{dtype}`", Blame(1, None, f"is {dtype}"),
               helps=["cast class numbers with `.long()`; probabilities have one for each class"])  # fmt: skip
    _need_sizes(t, x, target, range(len(dims)), "class probabilities", "scores")
