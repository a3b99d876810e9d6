"""``Tensor["B", "S", 1, "D/2", f32]``: what an annotation says about a tensor, from our own syntax and from
jaxtyping's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from tessera.diag import DTypeError, ShapeError
from tessera.ir.dim import Dim
from tessera.ir.dim_parse import parse_dim
from tessera.ir.dtype import DTYPES, DType, dtype, is_dtype_name

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class DTypeClass:
    """A set of dtypes that an annotation may ask for: ``floating``, ``integer``.

    >>> from tessera.ir.dtype import bf16, int8
    >>> bf16 in floating, int8 in floating
    (True, False)
    """

    name: str
    members: frozenset[DType]

    def __contains__(self, dtype: object) -> bool:
        return dtype in self.members

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


floating: Final = DTypeClass("floating", frozenset(t for t in DTYPES.values() if t.is_float))
integer: Final = DTypeClass("integer", frozenset(t for t in DTYPES.values() if t.is_int))


@dataclass(frozen=True, slots=True)
class Lead:
    """Any number of leading dims: ``"..."``, or ``"*batch"`` with a name of its own.

    One signature has one meaning for each name: every ``"..."`` in it stands for the same dims.
    """

    name: str = "..."

    def __str__(self) -> str:
        return self.name if self.name == "..." else f"*{self.name}"


@dataclass(frozen=True, slots=True)
class TensorAnnotation:
    """What is known of a tensor: ``dims`` (None: any rank), each a Dim or one ``Lead``; ``dtype`` (None:
    any).
    """

    dims: tuple[Dim | Lead, ...] | None
    dtype: DType | DTypeClass | None = None

    def __str__(self) -> str:
        if self.dims is None:
            return "Tensor" if self.dtype is None else f"Tensor[{self.dtype}]"
        items = [_shown(d) for d in self.dims] + ([] if self.dtype is None else [str(self.dtype)])
        return f"Tensor[{', '.join(items) or '()'}]"

    __repr__ = __str__

    def __or__(self, other: object) -> Any:
        """``Tensor["S"] | None``: the same as ``Optional[Tensor["S"]]``."""
        return Union((self, other))

    __ror__ = __or__

    @property
    def lead(self) -> Lead | None:
        """The variadic part, if there is one."""
        return next((d for d in self.dims or () if isinstance(d, Lead)), None)

    @property
    def fixed(self) -> tuple[Dim, ...]:
        """The dims behind (and before) the variadic part."""
        return tuple(d for d in self.dims or () if isinstance(d, Dim))

    @property
    def names(self) -> tuple[str, ...]:
        """Every dim name, in order of first appearance."""
        return tuple(dict.fromkeys(n for d in self.fixed for n in sorted(d.names())))

    def admits(self, dtype: DType) -> bool:
        """Whether a tensor of this dtype is allowed."""
        return self.dtype is None or self.dtype is dtype or (isinstance(self.dtype, DTypeClass) and dtype in self.dtype)

    def expand(self, leading: Sequence[Dim]) -> tuple[Dim, ...]:
        """The dims with the variadic part replaced."""
        assert self.dims is not None
        found: list[Dim] = []
        for d in self.dims:
            found.extend(leading if isinstance(d, Lead) else (d,))
        return tuple(found)


def _shown(d: Dim | Lead) -> str:
    return str(d) if isinstance(d, Dim) and d.is_const else f'"{d}"'


@dataclass(frozen=True, slots=True)
class Union:
    """``Tensor[...] | None`` where Python's own union does not apply."""

    members: tuple[object, ...]

    def __or__(self, other: object) -> Union:
        return Union((*self.members, other))

    __ror__ = __or__


class _TensorMeta(type):
    def __getitem__(cls, items: object) -> TensorAnnotation:
        return annotation(items if isinstance(items, tuple) else (items,))

    def __or__(cls, other: object) -> Any:
        return Union((cls, other))

    __ror__ = __or__

    def __repr__(cls) -> str:
        return "Tensor"


#: mypy takes this name for true: it then leaves the items of an annotation alone.
MYPY = False

if MYPY:
    Tensor: Any
elif TYPE_CHECKING:

    class Tensor(torch.Tensor, Protocol):  # pyright: ignore
        """For editors: a torch tensor, whatever stands in the brackets."""

        @classmethod
        def __class_getitem__(cls, item: object) -> type[Tensor]: ...

else:

    class Tensor(metaclass=_TensorMeta):
        """The annotation of a tensor argument or result.

        Items are dim names (``"B"``), expressions (``"D/2"``), ints, ``"..."`` for any leading dims, and a
        dtype or dtype class at the end. ``Tensor`` alone allows any rank and dtype, ``Tensor[()]`` only rank 0.
        Raises ShapeError (TSR0101, TSR0102, TSR0104) and DTypeError (TSR0103).

        >>> Tensor["B", 1, "D/2"]
        Tensor["B", 1, "D/2"]
        >>> Tensor["...", "D"].lead
        Lead(name='...')
        """


def annotation(items: Sequence[object]) -> TensorAnnotation:
    """The annotation that a list of items means; see ``Tensor``."""
    if len(items) == 1 and items[0] == ():
        return TensorAnnotation(())
    found_dtype: DType | DTypeClass | None = None
    if items and (last := _dtype(items[-1])) is not None:
        found_dtype, items = last, items[:-1]
        if not items:
            return TensorAnnotation(None, found_dtype)
        if items == ((),):
            return TensorAnnotation((), found_dtype)
    dims = tuple(_item(x) for x in items)
    _one_lead(dims)
    return TensorAnnotation(dims, found_dtype)


def _one_lead(dims: Iterable[Dim | Lead]) -> None:
    if sum(isinstance(d, Lead) for d in dims) > 1:
        raise ShapeError("an annotation with two variadic parts", code="TSR0104", helps=["use `...` once"])


def _dtype(x: object) -> DType | DTypeClass | None:
    """The dtype meant by the last item; None when it is a dim."""
    if isinstance(x, DType | DTypeClass):
        return x
    if x in (bool, int, float) and isinstance(x, type):
        return dtype(x)
    if isinstance(x, str | int | tuple | list | type(None)) or x is Ellipsis:
        return None
    try:
        return dtype(x)
    except DTypeError:
        return None


def _item(x: object) -> Dim | Lead:
    if x is Ellipsis or x == "...":
        return Lead()
    if isinstance(x, Dim):
        return x
    if isinstance(x, bool) or not isinstance(x, int | str):
        raise ShapeError(
            f"`{_brief(x)}` in a tensor annotation",
            code="TSR0104",
            helps=['a dim is a name, an expression in quotes, or a number: Tensor["B", "D/2", 1]'],
        )
    if isinstance(x, int):
        if x < 0:
            raise ShapeError(f"negative size {x}", code="TSR0104", helps=['`"..."` stands for any leading dims'])
        return Dim.const(x)
    if x.startswith("*") and x[1:].isidentifier():
        return Lead(x[1:])
    if is_dtype_name(x.strip()):
        raise DTypeError(
            f"`{x}` is a dtype, not the name of a dimension",
            code="TSR0103",
            helps=[f"write it without quotes: Tensor[..., {x.strip()}]"],
        )
    return parse_dim(x)


def _brief(x: object) -> str:
    text = getattr(x, "__name__", None) or repr(x)
    return text if len(text) <= 40 else f"{text[:39]}…"


# ---- jaxtyping -------------------------------------------------------------------------------------------


def from_jaxtyping(x: object) -> TensorAnnotation | None:
    """What ``Float[torch.Tensor, "B S D"]`` says; None for anything that is not such an annotation.

    Read from the public attributes ``dim_str`` and ``dtypes``. A dim is a name, a number or an expression;
    ``...``, ``*name`` and ``_`` are known; ``#``, ``?`` and ``name=`` prefixes are markers and only the
    name counts. Raises ShapeError (TSR0101).
    """
    text, dtypes = getattr(x, "dim_str", None), getattr(x, "dtypes", None)
    if not isinstance(text, str) or not hasattr(x, "array_type"):
        return None
    dims = tuple(_word(word, n) for n, word in enumerate(text.split()))
    _one_lead(dims)
    return TensorAnnotation(dims, _allowed(dtypes))


def _word(word: str, place: int) -> Dim | Lead:
    if word == "...":
        return Lead()
    word = word.rpartition("=")[2] if "=" in word else word
    if word.startswith("*"):
        return Lead(word.lstrip("*#?_") or "...")
    word = word.lstrip("#?")
    if word in ("", "_"):
        return Dim.name(f"_{place}")
    if word.startswith("_") and not word[1:].isdigit():
        word = f"{word}_{place}"  # an underscore says that the name binds nothing
    return parse_dim(word)


def _allowed(names: object) -> DType | DTypeClass | None:
    """The dtype or class behind jaxtyping's tuple of dtype names."""
    if not isinstance(names, tuple | list):
        return None
    known = frozenset(dtype(n) for n in names if isinstance(n, str) and is_dtype_name(n))
    if len(known) == 1 and len(names) == 1:
        return next(iter(known))
    if not known:
        return None
    for group in (floating, integer):
        if known <= group.members and len(known) > 2:
            return group
    return DTypeClass(" or ".join(sorted(t.name for t in known)), known)
