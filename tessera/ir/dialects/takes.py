"""Which dtypes a call takes, as its signature says it: ``x: tensor float, weight: tensor? like x``.

Words behind ``tensor`` list the dtypes that the argument may have: classes (``float int bool``), dtypes by name,
``index`` and ``long`` (positions), ``mask``. ``like x`` asks for the dtype of another argument, ``near x`` also takes
f32 beside a half-width ``x``, ``alike`` one dtype for all tensors of a sequence, ``with x y float`` a float as the
common dtype of the three; with ``free0`` tensors of rank 0 are not asked. Numbers are weak and never asked. The words
speak of what a user calls: rules and definitions inside one another compute in whatever dtype they cast to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tessera.ir.dtype import DTYPES, DType, dtype, f32
from tessera.ir.graph import Operand
from tessera.ir.infer import Blame, Refused, result_dtype
from tessera.ir.record import OpRecord, Param

if TYPE_CHECKING:
    from tessera.ir.dialects.calls import Ops

#: Words that name several dtypes, with the code that refuses others and what is said of them.
_INDEX: Final = frozenset({dtype("int32"), dtype("int64")})
_WORDS: Final[Mapping[str, frozenset[DType]]] = {
    "float": frozenset(t for t in DTYPES.values() if t.is_float),
    "int": frozenset(t for t in DTYPES.values() if t.is_int),
    "bool": frozenset({dtype("bool")}),
    "mask": frozenset({dtype("bool")}),
    "index": _INDEX,
    "long": frozenset({dtype("int64")}),
}
_CODES: Final[Mapping[str, str]] = {"mask": "TSR0303", "index": "TSR0304", "long": "TSR0304"}
_SAID: Final[Mapping[str, str]] = {"float": "a float", "int": "an integer", "bool": "a bool", "mask": "a bool"}
_HELPS: Final[Mapping[str, str]] = {
    "float": "cast it with `.float()`", "mask": "compare it: `!= 0` gives a mask", "index": "cast it with `.long()`",
    "long": "cast it with `.long()`", "int": "cast it to an integer first",
}  # fmt: skip


def check_dtypes(t: Ops, record: OpRecord, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse a call whose tensors have dtypes that the signature excludes (TSR0301, TSR0303 for masks, TSR0304 for
    positions).
    """
    if not any(p.takes for p in record.params):
        return
    given = dict(_given(t, record, args, kwargs))
    for p in record.params:
        if p.takes and p.name in given:
            _check(record, p, given)


def _given(t: Ops, record: OpRecord, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The tensors of a call by parameter, sequences of them as tuples; what is no tensor is left out."""
    waiting = list(args)
    for p in record.params:
        if p.variadic:
            value: Any = waiting[0] if len(waiting) == 1 and isinstance(waiting[0], tuple | list) else waiting
            waiting = []
        elif waiting and not p.keyword_only:
            value = waiting.pop(0)
        else:
            value = kwargs.get(p.name)
        members = value if isinstance(value, tuple | list) else (value,)
        tensors = tuple(t.operand(x) for x in members if t.is_tensor(x))
        if p.is_operand and tensors:
            yield p.name, tensors


def _check(record: OpRecord, p: Param, given: Mapping[str, tuple[Operand, ...]]) -> None:
    words = p.takes.split()
    names = [q.name for q in record.params if q.name in words]
    classes = [w for w in words if w in _WORDS or w in DTYPES]
    mine = given[p.name]
    if "with" in words:
        beside = [x for name in names for x in given.get(name, ())]
        common = result_dtype([x.type for x in (*beside, *mine)])
        if not _among(common, classes):
            _refuse_class(record, (*beside, *mine), common, classes)
        return
    for x in mine if classes else ():
        if not _among(x.type.dtype, classes):
            _refuse_class(record, (x,), x.type.dtype, classes)
    pattern = given.get(names[0], ()) if names else mine[:1] if "alike" in words else ()
    for x in mine if pattern else ():
        if "free0" not in words or (x.type.rank and pattern[0].type.rank):
            need_same(record.name, pattern[0], x, near="near" in words)


def need_same(what: str, x: Operand, other: Operand, near: bool = False) -> None:
    """Refuse two tensors of different dtypes (TSR0301); with ``near`` f32 beside a half-width ``x`` is taken."""
    want, have = x.type.dtype, other.type.dtype
    if have is not want and not (near and have is f32 and want.is_float and want.bits == 16):
        raise _refusal(
            "TSR0301", f"{what} of `{want}` with `{have}`", (other, x), f"is {have}", f"is {want}",
            help_=f"cast one of them: `.to({want})`",
        )  # fmt: skip


def _among(t: DType, classes: Sequence[str]) -> bool:
    return any(t in _WORDS.get(w, ()) or t.name == w for w in classes)


def _refuse_class(record: OpRecord, about: tuple[Operand, ...], have: DType, classes: Sequence[str]) -> NoReturn:
    code = next((_CODES[w] for w in classes if w in _CODES), "TSR0301")
    names = [_SAID.get(w) or " or ".join(sorted(t.name for t in _WORDS.get(w, ())) or [w]) for w in classes]
    said = f", not {' or '.join(names)}" if len(about) == 1 else ""
    texts = [f"is {x.type.dtype}{said}" for x in about]
    kind = {"TSR0303": "mask", "TSR0304": "index"}.get(code)
    message = f"{record.name} of `{have}`" if kind is None else f"{record.name} with a{'n' * (kind == 'index')} {kind}"
    message += "" if kind is None else f" of dtype `{have}`"
    if code == "TSR0304" and have.is_bool:
        raise _refusal(code, message, about, *texts, help_="select with `where`, or reduce with the mask")
    raise _refusal(code, message, about, *texts, help_=_HELPS.get(classes[0], f"cast it with `.to({classes[0]})`"))


def _refusal(code: str, message: str, about: tuple[Operand, ...], *texts: str, help_: str) -> Refused:
    from_dtype = tuple(Blame(n, None, text) for n, text in enumerate(texts))
    return Refused.about(code, message, about, from_dtype, (help_,))
