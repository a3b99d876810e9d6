"""Every program of the corpus: faults are refuted when the function is defined, under the right expression; correct
programs are never refused and compute what torch computes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor
from tests.corpus.table import CORRECT, FAULTY, Correct, Faulty, arguments

_CORRECT = ("attention", "layers", "shapes", "models", "vision", "transformers", "styles", "training", "dtypes")
_FAULTY = (*_CORRECT[:4], "calls", "language", "transformers", "styles", "training", "dtypes")
for _room in (*(f"correct_{name}" for name in _CORRECT), *(f"faulty_{name}" for name in _FAULTY)):
    importlib.import_module(f"tests.corpus.{_room}")

_ORDER = ("proved", "guarded", "deferred", "refuted")


def _tensors(x: Any) -> Iterator[Any]:
    """The leaves of a result."""
    members = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else None
    if members is None:
        yield x
        return
    for member in members:
        yield from _tensors(member)


@pytest.mark.parametrize("case", FAULTY, ids=lambda c: c.name)
def test_fault_is_refuted_at_definition(case: Faulty) -> None:
    with pytest.raises(tessera.TesseraError) as raised:
        tessera.function(case.function)
    found = raised.value.diagnostics[0]
    assert found.code in case.codes, str(raised.value)
    assert found.primary is not None and found.primary.span.text() == case.at, str(raised.value)
    assert found.primary.span.file == case.function.__code__.co_filename
    assert len(raised.value.diagnostics) == case.faults, str(raised.value)
    assert not case.helps or found.helps, str(raised.value)


@pytest.mark.parametrize("case", [c for c in FAULTY if c.helps], ids=lambda c: c.name)
def test_the_first_repair_makes_the_program_correct(case: Faulty, tmp_path: Path) -> None:
    with pytest.raises(tessera.TesseraError) as raised:
        tessera.function(case.function)
    repair = next(h for h in raised.value.diagnostics[0].helps if h.replacement is not None)
    assert repair.span is not None and repair.replacement is not None
    lines = Path(repair.span.file).read_text(encoding="utf-8").splitlines()
    line, start, end = repair.span.line - 1, repair.span.column, repair.span.end_column
    lines[line] = lines[line][:start] + repair.replacement + lines[line][end:]
    path = tmp_path / f"repaired_{case.function.__name__}.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    repaired = attrgetter(case.name)(module)
    assert tessera.function(repaired).check().ok


@pytest.mark.parametrize("case", CORRECT, ids=lambda c: c.name)
def test_correct_program_is_accepted(case: Correct) -> None:
    report = tessera.function(case.function).check()
    assert _ORDER.index(report.verdict) <= _ORDER.index(case.verdict), str(report)


@pytest.mark.parametrize("case", CORRECT, ids=lambda c: c.name)
def test_correct_program_runs_compiled(case: Correct) -> None:
    f: Any = tessera.function(case.function)
    owner = () if case.owner is None else (case.owner(),)
    given = arguments(case)
    expected = list(_tensors(f.eager(*owner, **given)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", tessera.TesseraWarning)
        found = list(_tensors(f(*owner, **given)))
    assert f.cache_info().eager == 0
    assert len(found) == len(expected)
    for have, want in zip(found, expected, strict=True):
        if isinstance(want, torch.Tensor):
            torch.testing.assert_close(have, want, rtol=case.tolerance, atol=case.tolerance)
        else:
            assert have == want


def test_a_method_of_an_object_is_checked_with_what_the_object_holds() -> None:
    class Scores:
        def __init__(self, width: int) -> None:
            self.weight = torch.zeros(width, width)
            self.scale = 0.5

        @tessera.function
        def of(self, x: Tensor["B", "S", 8], y: Tensor["B", "T", 8]) -> Tensor["B", "S", "T"]:
            return (x @ self.weight) * self.scale @ y.mT

    assert Scores.__dict__["of"].check().verdict == "deferred"
    assert Scores(8).of.check().verdict == "proved"
    (found,) = Scores(7).of.check().diagnostics
    assert found.code == "TSR0201" and found.primary is not None and found.primary.span.text() == "x"
