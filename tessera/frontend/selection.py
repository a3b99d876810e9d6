"""``y[m] += 1`` with a bool mask: Python reads, operates and writes back; here all elements are operated on, and the
mask says which ones are kept. How many elements a mask selects is never asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tessera.frontend.handles import PoisonHandle, TensorHandle
from tessera.frontend.names import updates_in_place
from tessera.frontend.session import Call, Session
from tessera.ir.dialects.calls import REFLECTED
from tessera.ir.dialects.composite_index import need_mask


class Selection:
    """What ``y[m]`` is on the left of an update: the elements of ``value`` behind ``mask``."""

    __slots__ = ("mask", "session", "value")

    def __init__(self, session: Session, value: Any, mask: TensorHandle) -> None:
        self.session, self.value, self.mask = session, value, mask


def selected(x: TensorHandle, key: Any) -> Any:
    """The selection, where an update in place reads it; None for every other use of ``x[key]``, poison after an
    error.
    """
    if not isinstance(key, TensorHandle) or not key._value.type.dtype.is_bool:
        return None
    if not 0 < key._value.type.rank <= x._value.type.rank:
        return None
    session = x._session
    call = session.site("getitem", "subscript", (x, key), {})
    if call.code is None or call.lasti not in updates_in_place(call.code):
        return None
    found = session.perform(call, lambda a, k: need_mask(session.ops, a[0], a[1], 0))
    return found if isinstance(found, PoisonHandle) else Selection(session, x, key)


def put_back(session: Session, call: Call, selection: Selection) -> Any:
    """The elements of the selection where its mask holds, those of the call's first argument elsewhere."""

    def act(args: list[Any], _: dict[str, Any]) -> Any:
        x, mask, new = args
        for _n in range(session.ops.type_of(x).rank - session.ops.type_of(mask).rank):
            mask = session.ops.unsqueeze(mask, -1)
        return session.ops.where(mask, session.ops.cast(new, session.ops.dtype_of(x)), x)

    return session.perform(call, act)


def _update(record: str) -> Callable[[Selection, Any], Any]:
    def method(self: Selection, other: Any) -> Any:
        session, records = self.session, self.session.table.records
        rest = self.value._value.type.rank - self.mask._value.type.rank
        if isinstance(other, TensorHandle) and other._value.type.rank > rest:
            return session.apply(records["getitem"], (self.value, self.mask), {}, "subscript", "getitem")
        found = session.apply(records[record], (self.value, other), {}, "operator")
        return Selection(session, found, self.mask) if isinstance(found, TensorHandle) else found

    return method


for _name, _record in REFLECTED.items():
    setattr(Selection, "__i" + _name[3:], _update(_record))

__all__ = ["Selection", "put_back", "selected"]
