"""What losses ask of their targets: the sizes and the dtypes that fit the scores."""

from __future__ import annotations

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
    have, want = t.dims(target), t.dims(x)
    if len(have) != len(want):
        t.fail("TSR0204", f"targets of rank {len(have)} for values of rank {len(want)}",
               Blame(1, None, f"has rank {len(have)}"), Blame(0, None, f"has rank {len(want)}"))  # fmt: skip
    for n, (a, b) in enumerate(zip(want, have, strict=True)):
        t.context.equal(a, b, "TSR0215", f"targets of size `{b}` for values of size `{a}`", Blame(1, n, f"`{b}`"),
                        Blame(0, n, f"`{a}`"))  # fmt: skip


def apart(t: Any, x: Any, target: Any) -> Any:
    """The difference; a mask as target counts as 0 and 1."""
    return t.emit("sub", (x, target))


def class_axis(t: Any, x: Any) -> int:
    """The axis of the scores that counts classes: 1 behind a batch, else 0."""
    return 1 if t.type_of(x).rank > 1 else 0


def check_classes(t: Any, x: Any, target: Any, weight: Any) -> None:
    """The target has the shape of the scores without the class axis."""
    dims, have, axis = t.dims(x), t.dims(target), class_axis(t, x)
    need_one_rank(t, x, range(1, 65), "scores")
    want = tuple(d for n, d in enumerate(dims) if n != axis)
    if len(want) != len(have):
        t.fail("TSR0204", f"class targets of rank {len(have)} for scores of rank {len(dims)}",
               Blame(1, None, f"has rank {len(have)}"), Blame(0, None, f"has rank {len(dims)}"),
               helps=["scores are [N, C, …] and targets [N, …]; flatten the leading dims"])  # fmt: skip
    for n, (a, b) in enumerate(zip(want, have, strict=True)):
        t.context.equal(a, b, "TSR0215", f"targets of size `{b}` for scores of size `{a}`", Blame(1, n, f"`{b}`"),
                        Blame(0, n if n < axis else n + 1, f"`{a}`"))  # fmt: skip
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
    if len(have) != len(dims):
        t.fail("TSR0204", f"class probabilities of rank {len(have)} for scores of rank {len(dims)}",
               Blame(1, None, f"has rank {len(have)}"), Blame(0, None, f"has rank {len(dims)}"))  # fmt: skip
    for n, (a, b) in enumerate(zip(dims, have, strict=True)):
        t.context.equal(a, b, "TSR0215", f"targets of size `{b}` for scores of size `{a}`", Blame(1, n, f"`{b}`"),
                        Blame(0, n, f"`{a}`"))  # fmt: skip
