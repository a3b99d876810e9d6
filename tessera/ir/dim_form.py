"""What a dimension form is and how it is read; building forms is the business of ``dim``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from tessera.diag import ShapeError
from tessera.ir.dim_eval import Evaluator, Sizes, checked, compile_form, missing_size
from tessera.ir.dim_poly import Coefficient, Monomial
from tessera.ir.dim_text import form_text, term_order

#: Atoms written between their operands; the others are written as calls.
INFIX = frozenset({"//", "%", "/"})


class AtomForm(Protocol):
    """A factor that is not a name, as far as reading goes."""

    @property
    def kind(self) -> str: ...

    @property
    def args(self) -> Sequence[Form]: ...

    def operands(self) -> Sequence[Evaluator]: ...


class Form:
    """A sum of terms over names and atoms, with what can be asked of it."""

    __slots__ = ("__weakref__", "_atoms", "_names", "_run", "_signed", "_terms", "_text")

    _terms: tuple[tuple[Monomial, Coefficient], ...]
    _atoms: Mapping[str, AtomForm]
    _names: frozenset[str] | None
    _text: str | None
    _run: Evaluator | None
    _signed: Evaluator | None

    @property
    def is_const(self) -> bool:
        """Is this a known number?"""
        return not self._terms or (len(self._terms) == 1 and not self._terms[0][0])

    @property
    def is_name(self) -> bool:
        """Is this a plain name?"""
        if len(self._terms) != 1:
            return False
        m, c = self._terms[0]
        return c == 1 and len(m) == 1 and m[0][1] == 1 and not self._atoms

    @property
    def value(self) -> int:
        """The number of a constant; raises ShapeError (TSR0106) for anything else."""
        if not self.is_const:
            raise ShapeError(f"the size of `{self}` is not known", code="TSR0106")
        return int(self._terms[0][1]) if self._terms else 0

    @property
    def terms(self) -> tuple[tuple[Monomial, Coefficient], ...]:
        """(monomial, coefficient) pairs in a fixed order; a factor found in ``atoms`` is that atom."""
        return self._terms

    def names(self) -> frozenset[str]:
        """Every name in the expression, those inside atoms included."""
        found = self._names
        if found is None:
            plain = {f for m, _ in self._terms for f, _ in m if f not in self._atoms}
            inner = [arg.names() for atom in self._atoms.values() for arg in atom.args]
            found = self._names = frozenset(plain).union(*inner)
        return found

    def degree_key(self) -> tuple[int, int, str]:
        """A key that orders dimensions the same in every run: degree, number of terms, text."""
        return -term_order(self._terms[0])[0] if self._terms else 0, len(self._terms), str(self)

    def evaluate(self, sizes: Sizes, *, signed: bool = False) -> int:
        """The number for these sizes.

        Raises ShapeError: TSR0110 when a size is missing, TSR0106 when an exact division leaves a remainder
        or the result is negative (which ``signed`` allows: positions may be negative, sizes may not).

        >>> from tessera.ir.dim import Dim
        >>> (Dim.of("D") / 2).evaluate({"D": 8})
        4
        """
        try:
            return self.evaluator(signed=signed)(sizes)
        except KeyError as missing:
            raise missing_size(str(missing.args[0]), str(self)) from None

    def evaluator(self, *, signed: bool = False) -> Evaluator:
        """``evaluate`` compiled into closures; these raise KeyError for a missing name."""
        run = self._signed if signed else self._run
        if run is None:
            run = self._signed or compile_form(self._terms, self._atoms, lambda: str(self))
            self._signed = run
            if not signed:
                self._run = run = run if never_negative(self) else checked(run, lambda: str(self))
        return run

    def __str__(self) -> str:
        text = self._text
        if text is None:
            infix = [f for f, atom in self._atoms.items() if atom.kind in INFIX]
            text = self._text = form_text(self._terms, infix)
        return text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


def never_negative(dim: Form) -> bool:
    """Can the value not be negative, whatever the names are (from 0)? Only plain cases are known."""
    plain = all(all(map(never_negative, a.args)) for a in dim._atoms.values())
    return plain and all(c > 0 for _, c in dim._terms)


def is_positive(dim: Form) -> bool:
    """Is this one term, positive wherever it is not zero: a positive number times names?"""
    return len(dim._terms) == 1 and not dim._atoms and dim._terms[0][1] > 0
