"""``Tensor["B", "S", 1, "D/2", f32]``: what an annotation says about a tensor, from our own syntax and from
jaxtyping's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from tessera.diag import DTypeError, Help, ShapeError, Span, TesseraError, user_frames
from tessera.diag.span import is_machinery
from tessera.frontend.mistakes import advice, dtype_text, known_dtypes, placed, written
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
    any). A ``flat`` one may be given as a list of tensors; a ``tile`` is what a kernel reads and writes.
    """

    dims: tuple[Dim | Lead, ...] | None
    dtype: DType | DTypeClass | None = None
    flat: bool = False
    tile: bool = False

    def __str__(self) -> str:
        word = "Flat" if self.flat else "Tile" if self.tile else "Tensor"
        if self.dims is None:
            return word if self.dtype is None else f"{word}[{self.dtype}]"
        items = [_shown(d) for d in self.dims] + ([] if self.dtype is None else [str(self.dtype)])
        return f"{word}[{', '.join(items) or '()'}]"

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
    @user_frames
    def __getitem__(cls, items: object) -> TensorAnnotation:
        try:
            return cls.read(items if isinstance(items, tuple) else (items,))  # type: ignore[attr-defined]
        except TesseraError as error:
            frame = sys._getframe(2)  # behind `user_frames`; an annotation given as text is placed by who reads it
            if is_machinery(frame.f_code.co_filename):
                raise
            refused = placed(error, Span.at(frame.f_code, frame.f_lasti), "in this annotation", read_item)
        raise refused

    @user_frames
    def __call__(cls, *args: object, **kwargs: object) -> object:
        raise ShapeError(
            f"`{cls.__name__}` is an annotation, and makes no tensors", code="TSR0104",
            helps=['an annotation has brackets, Tensor["B", "D"]; `torch.tensor` makes tensors'],
        )  # fmt: skip

    def __or__(cls, other: object) -> Any:
        return Union((cls, other))

    __ror__ = __or__

    def __repr__(cls) -> str:
        return cls.__name__


#: mypy takes this name for true: it then leaves the items of an annotation alone.
MYPY = False

if MYPY:
    Tensor: Any
    Flat: Any
    Tile: Any
elif TYPE_CHECKING:

    class Tensor(torch.Tensor, Protocol):  # pyright: ignore
        """For editors: a torch tensor, whatever stands in the brackets."""

        @classmethod
        def __class_getitem__(cls, item: object) -> type[Tensor]: ...

    class Flat(torch.Tensor, Protocol):  # pyright: ignore
        """For editors: inside of its function one tensor of rank 1."""

        @classmethod
        def __class_getitem__(cls, item: object) -> Any: ...

    class Tile(torch.Tensor, Protocol):  # pyright: ignore
        """For editors: in a kernel, a view of a tensor."""

        @classmethod
        def __class_getitem__(cls, item: object) -> Any: ...

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

        @staticmethod
        def read(items: Sequence[object]) -> TensorAnnotation:
            """The annotation that the items in the brackets mean."""
            return annotation(items)

    class Flat(metaclass=_TensorMeta):
        """The annotation of many tensors that a function takes for one of rank 1: all their elements, in order.

        The argument is a list or tuple of tensors of one dtype on one device, of any shapes, or one tensor of rank 1.
        Items are the one size and, behind it, a dtype or dtype class. Lists given for the same size have as many
        elements in each place. Nothing is copied where the function is elementwise or reduces everything.
        Raises ShapeError (TSR0101, TSR0102, TSR0104) and DTypeError (TSR0103).

        >>> Flat["N"]
        Flat["N"]
        """

        @staticmethod
        def read(items: Sequence[object]) -> TensorAnnotation:
            """The annotation that the items in the brackets mean."""
            found = annotation(items)
            if found.dims is None or len(found.dims) != 1 or found.lead is not None:
                raise ShapeError(
                    "`Flat` of something else than one size", code="TSR0104",
                    helps=['all elements count along one axis: Flat["N"], or Flat["N", tessera.f32]'],
                )  # fmt: skip
            return replace(found, flat=True)

    class Tile(metaclass=_TensorMeta):
        """The annotation of a tensor that a kernel reads or writes: a typed view of memory, no value.

        Items are dim names, expressions and ints, and behind them the dtype; without one it may be any. A tensor with
        further dims before these is taken one part after the other. Raises ShapeError (TSR0101, TSR0102, TSR0104) and
        DTypeError (TSR0103).

        >>> Tile["S", "D/2"]
        Tile["S", "D/2"]
        """

        @staticmethod
        def read(items: Sequence[object]) -> TensorAnnotation:
            """The annotation that the items in the brackets mean."""
            found = annotation(items)
            if found.dims is None or found.lead is not None:
                raise ShapeError(
                    "a tile without its dims", code="TSR0104",
                    helps=['name every dim of the view: Tile["S", "D"]; dims before these are taken care of'],
                )  # fmt: skip
            return replace(found, tile=True)


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
    dims = tuple(read_item(x) for x in items)
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


def read_item(x: object) -> Dim | Lead:
    """An item of an annotation: a size, or leading dims. Raises ShapeError, or DTypeError (TSR0103)."""
    if x is Ellipsis or x == "...":
        return Lead()
    if isinstance(x, Dim):
        return x
    if isinstance(x, bool) or not isinstance(x, int | str):
        raise _no_dim(x)
    if isinstance(x, int):
        if x < 0:
            raise _negative(x)
        return Dim.const(x)
    if x.startswith("*") and x[1:].isidentifier():
        return Lead(x[1:])
    name = dtype_text(x)
    if name is not None:
        raise DTypeError(
            f"`{x}` is a dtype, not the name of a dimension",
            code="TSR0103",
            notes=["a dtype stands last, without quotes"],
            helps=written([name], "..., "),
        )
    return _expression(x)


def _expression(text: str) -> Dim:
    try:
        found = parse_dim(text)
    except ShapeError as error:
        meant = written(advice(text, parse_dim)) if error.code == "TSR0101" else []
        if not meant:
            raise
        raise ShapeError(error.message, code=error.code, helps=meant) from None
    if found.is_const and found.value < 0:
        raise _negative(found.value)
    return found


def _negative(size: int) -> ShapeError:
    return ShapeError(f"negative size {size}", code="TSR0104", helps=['`"..."` stands for any leading dims'])


def _no_dim(x: object) -> TesseraError:
    """The error for an item that is neither a name, nor an expression, nor a number."""
    help_ = Help('a dim is a name, an expression in quotes, or a number: Tensor["B", "D/2", 1]')
    if isinstance(x, DType | DTypeClass) or x in (bool, int, float):
        help_ = Help('one dtype, behind the dims: Tensor["B", "D", tessera.f32]')
    elif isinstance(x, list | tuple) and x and all(isinstance(one, str | int) for one in x):
        help_ = Help(f"dims stand side by side: Tensor[{', '.join(map(_quoted, x))}]")
    elif type(x).__name__ == "dtype":
        return DTypeError(f"`{x}` is no dtype of an annotation", code="TSR0103", helps=[f"known: {known_dtypes()}"])
    return ShapeError(f"`{_brief(x)}` in a tensor annotation", code="TSR0104", helps=[help_])


def _quoted(x: object) -> str:
    return f'"{x}"' if isinstance(x, str) else str(x)


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
