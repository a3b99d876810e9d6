"""The corpus of programs: correct ones with what the check says and how to call them, faulty ones with the place
of their fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tessera.driver.layout import TABLE
from tessera.frontend.annotation import TensorAnnotation
from tessera.frontend.spec import EMPTY, FunctionSpec, ParamSpec
from tessera.ir.dtype import DType

#: What the dims of the programs are when they are called, unless a program says otherwise.
SIZES = {
    "B": 2, "S": 6, "T": 4, "D": 8, "E": 3, "F": 10, "H": 4, "K": 5, "V": 11, "N": 7, "M": 9, "C": 12, "G": 3,
    "L": 14, "P": 2, "W": 6, "I": 5, "J": 4, "O": 3, "Q": 2, "R": 2, "X": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Correct:
    """A program without a fault. ``verdict`` is what the check must reach at least; ``given`` are arguments by name,
    ``ids`` bounds of index arguments, ``sizes`` dims that differ from the usual ones, ``owner`` makes the object of
    a method.
    """

    function: Callable[..., Any]
    verdict: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    owner: Callable[[], object] | None = None
    tolerance: float = 1e-5

    @property
    def name(self) -> str:
        return self.function.__qualname__


@dataclass(frozen=True)
class Faulty:
    """A program with one fault: the codes that may name it, the source text under the first label, whether
    a repair is offered, and how many faults are told."""

    function: Callable[..., Any]
    codes: tuple[str, ...]
    at: str
    helps: bool = False
    faults: int = 1

    @property
    def name(self) -> str:
        return self.function.__qualname__


CORRECT: list[Correct] = []
FAULTY: list[Faulty] = []


def correct(verdict: str = "proved", **options: Any) -> Callable[[Any], Any]:
    """Enter a program without a fault."""

    def enter(f: Any) -> Any:
        CORRECT.append(Correct(f, verdict, **options))
        return f

    return enter


def faulty(code: str, at: str, **options: Any) -> Callable[[Any], Any]:
    """Enter a program with one fault; several codes are separated by spaces."""

    def enter(f: Any) -> Any:
        FAULTY.append(Faulty(f, tuple(code.split()), at, **options))
        return f

    return enter


def arguments(case: Correct) -> dict[str, Any]:
    """Small concrete arguments that fit the annotations."""
    sizes = {**SIZES, **case.sizes}
    made: dict[str, Any] = {}
    for p in FunctionSpec.of(case.function).params:
        if p.name in case.given:
            made[p.name] = case.given[p.name]
        elif p.name == "self" or (p.default is not EMPTY and p.kind != "optional"):
            continue
        else:
            made[p.name] = _argument(case, p, sizes)
    return made


def _argument(case: Correct, p: ParamSpec, sizes: Mapping[str, int]) -> Any:
    if p.binds:
        return sizes[p.name]
    if p.kind == "scalar":
        return 0.5
    if p.kind == "container" and p.hint.kind in ("tuple", "list"):
        members = p.hint.members * (2 if p.hint.kind == "list" or p.hint.variadic else 1)
        parts = [_tensor(case, p.name, m.annotation, sizes) for m in members if m.annotation is not None]
        return tuple(parts) if p.hint.kind == "tuple" else parts
    if p.kind == "container" and p.hint.kind == "dict":
        return {key: _tensor(case, p.name, p.hint.tensors()[0], sizes) for key in ("a", "b")}
    (annotation, *_) = p.hint.tensors() or (None,)
    if annotation is None:
        raise LookupError(f"{case.name}: no value for `{p.name}`")
    return _tensor(case, p.name, annotation, sizes)


def _tensor(case: Correct, name: str, a: TensorAnnotation, sizes: Mapping[str, int]) -> torch.Tensor:
    lead = () if a.lead is None else (3, 2)
    dims = [d if isinstance(d, int) else d.evaluate(sizes) for d in (a.fixed if a.dims is not None else ())]
    at = 0 if a.lead is None or a.dims is None else list(a.dims).index(a.lead)
    shape = (*dims[:at], *lead, *dims[at:])
    if name in case.ids:
        dtype = TABLE.from_dtype(a.dtype) if isinstance(a.dtype, DType) else torch.int64
        return torch.randint(0, case.ids[name], shape).to(dtype)
    if str(a.dtype) == "bool":
        return torch.rand(shape) > 0.4
    if not isinstance(a.dtype, DType):
        return torch.randn(shape)
    dtype = TABLE.from_dtype(a.dtype)
    return torch.randn(shape).to(dtype) if dtype.is_floating_point else torch.randint(-9, 9, shape).to(dtype)
