"""The error classes and the frames their tracebacks keep."""

from __future__ import annotations

import copy
import pickle
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

import tessera.diag as diag
from tessera import config
from tessera.diag import (
    BoundsError,
    CacheError,
    ConfigError,
    Diagnostic,
    DTypeError,
    Help,
    Label,
    Note,
    ParseError,
    ResourceError,
    ShapeError,
    Span,
    TesseraError,
    TesseraWarning,
    TraceError,
    VerifyError,
    trim_traceback,
    user_frames,
)

CLASSES: list[tuple[type[TesseraError], type[BaseException]]] = [
    (ShapeError, ValueError),
    (DTypeError, TypeError),
    (TraceError, RuntimeError),
    (ResourceError, RuntimeError),
    (ConfigError, ValueError),
    (CacheError, ResourceError),
    (ParseError, ValueError),
    (VerifyError, RuntimeError),
    (BoundsError, IndexError),
    (TesseraWarning, UserWarning),
]


@pytest.mark.parametrize(("cls", "base"), CLASSES)
def test_every_class_is_also_a_builtin_one(cls: type[TesseraError], base: type[BaseException]) -> None:
    error = cls("it does not fit")
    assert isinstance(error, TesseraError)
    assert isinstance(error, base)
    assert error.code == cls.default_code
    assert error.message == "it does not fit"
    assert error.args == ("it does not fit",)
    assert f"{cls.severity}[{cls.default_code}]: it does not fit" == str(error)
    assert getattr(diag, cls.__name__) is cls
    assert cls.__module__ == "tessera.diag"


def _full_error() -> ShapeError:
    return ShapeError(
        "`S` meets `T`",
        code="TSR0202",
        labels=[Label(Span("m.py", 3, 1, 3, 2), "`T`"), Label(Span("m.py", 2, 0, 2, 4), "`S`", primary=True)],
        notes=["`S` is declared", Note("here", Span("m.py", 1))],
        helps=["insert a dimension", Help("write", Span("m.py", 2), "x")],
    )


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_can_be_copied_and_pickled(again: Callable[[ShapeError], ShapeError]) -> None:
    error = _full_error()
    error.add_note("while tracing")
    other = again(error)
    assert type(other) is ShapeError
    assert other.diagnostics == error.diagnostics
    assert (str(other), other.args, other.__notes__) == (str(error), error.args, ["while tracing"])


def test_parts_of_an_error() -> None:
    error = _full_error()
    assert error.spans == (Span("m.py", 2, 0, 2, 4),)
    assert error.diagnostics[0].notes[0] == Note("`S` is declared")
    assert error.diagnostics[0].helps[0] == Help("insert a dimension")


def test_several_findings_in_one_error() -> None:
    first = _full_error().diagnostics[0]
    error = ShapeError.from_diagnostics([first, Diagnostic("TSR0203", "no dim 7")])
    assert error.code == "TSR0202"
    assert error.codes == ("TSR0202", "TSR0203")
    assert error.spans == (Span("m.py", 2, 0, 2, 4),)
    assert "\n\nerror[TSR0203]: no dim 7" in str(error)
    assert copy.copy(error).codes == error.codes
    with pytest.raises(ValueError, match="at least one"):
        ShapeError.from_diagnostics([])


def test_the_base_class_needs_a_code() -> None:
    with pytest.raises(TypeError, match="needs a code"):
        TesseraError("something")
    assert TesseraError("something", code="TSR0404").code == "TSR0404"


def test_a_warning_keeps_its_code() -> None:
    with pytest.warns(TesseraWarning, match=r"warning\[TSR0606\]: open to others") as seen:
        warnings.warn(TesseraWarning("open to others", code="TSR0606"), stacklevel=1)
    assert isinstance(warning := seen[0].message, TesseraWarning)
    assert warning.code == "TSR0606"


LIBRARY = """
from tessera.diag import ShapeError, user_frames

def inner(fault, call):
    if call is not None:
        return call()
    raise fault

@user_frames
def decorated(fault, call=None):
    return inner(fault, call)

def managed(fault, call=None):
    with user_frames():
        return inner(fault, call)
"""

USER = """
def body():
    raise fault

def direct():
    enter(fault)

def through_body():
    enter(fault, body)
"""


@pytest.fixture
def library(tmp_path: Path) -> ModuleType:
    """A module that counts as a part of torch."""
    path = tmp_path / "fake_torch.py"
    path.write_text(LIBRARY)
    return _module(path)


def _module(path: Path) -> ModuleType:
    module = ModuleType(path.stem)
    vars(module).update(runpy.run_path(str(path)))
    module.__file__ = str(path)
    return module


@pytest.fixture
def names(
    library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[BaseException, str, str], list[str]]:
    """The functions in the traceback of an error raised through the library into user code."""
    monkeypatch.setitem(sys.modules, "functools", library)
    path = tmp_path / "user.py"
    path.write_text(USER)

    def run(fault: BaseException, entry: str, start: str) -> list[str]:
        user = runpy.run_path(str(path), {"fault": fault, "enter": getattr(library, entry)})
        try:
            user[start]()
        except type(fault) as error:
            return [frame.name for frame in traceback.extract_tb(error.__traceback__)][1:]
        raise AssertionError("nothing was raised")

    return run


Names = Callable[[BaseException, str, str], list[str]]


@pytest.mark.parametrize("entry", ["decorated", "managed"])
def test_only_the_users_frames_stay(names: Names, entry: str) -> None:
    assert names(ShapeError("x"), entry, "direct") == ["direct"]
    assert names(ShapeError("x"), entry, "through_body") == ["through_body", "body"]
    assert names(KeyError("the user's own"), entry, "through_body") == ["through_body", "body"]


@pytest.mark.parametrize("entry", ["decorated", "managed"])
def test_a_defect_keeps_its_frames(names: Names, entry: str) -> None:
    assert names(KeyError("a defect"), entry, "direct")[-1] == "inner"


def test_a_full_traceback_can_be_asked_for(names: Names) -> None:
    with config.override(full_traceback=True):
        assert names(ShapeError("x"), "managed", "direct") == ["direct", "managed", "inner"]


def test_a_malformed_option_hides_no_error(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_FULL_TRACEBACK", "perhaps")
    config.refresh()
    try:
        assert names(ShapeError("x"), "managed", "direct") == ["direct", "managed", "inner"]
    finally:
        monkeypatch.undo()
        config.refresh()


def test_causes_are_trimmed_and_cycles_end() -> None:
    first, second = ShapeError("a"), ShapeError("b")
    first.__cause__, second.__context__ = second, first
    try:
        raise second
    except ShapeError:
        trim_traceback(first)
    assert second.__traceback__ is not None
    trim_traceback(KeyError("never raised"))


def test_nothing_is_changed_when_nothing_is_raised() -> None:
    @user_frames
    def double(x: int) -> int:
        """Twice the number."""
        return 2 * x

    assert double(4) == 8
    assert double.__doc__ == "Twice the number."
    assert user_frames() is user_frames()


def test_errors_render_the_same_in_many_threads() -> None:
    error = _full_error()
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: str(error), range(64)))) == 1
