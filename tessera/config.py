"""Every option of Tessera, each set by one environment variable; the only reader of the environment.

Options are read where they are needed, `config.current().backend`, and remembered. They change only
through `override`, for a block of code, or `refresh`, which forgets what was read:

>>> from tessera import config
>>> with config.override(backend="eager", compile_timeout=10):
...     config.current().backend
'eager'

A malformed value raises `ConfigError` (TSR0609) when its option is read, and names the variable and
what is allowed. An empty variable counts as unset. Overrides belong to the running context
(`contextvars`): another thread does not see them.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TextIO, TypeVar, get_args, overload

from tessera.diag import ConfigError, TesseraWarning, keep_full_tracebacks_when

T = TypeVar("T")
L = TypeVar("L", bound=str)

Backend = Literal["auto", "c", "triton", "eager"]
CacheMode = Literal["on", "off", "readonly"]
ShapeChecks = Literal["strict", "warn", "off"]
Switch = Literal["auto", "on", "off"]

#: Largest time limit, in seconds.
LONGEST_TIMEOUT = 86_400.0
#: Largest number of bytes an option may name.
MOST_BYTES = 2**63 - 1
#: Characters of a variable beyond which its value is refused unread.
_LONGEST_VALUE = 4096


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How the values of an option are written: `parse` gives None for a text that is not allowed.

    `holds` says whether an already typed value is allowed.
    """

    allowed: str
    parse: Callable[[str], T | None]
    holds: Callable[[object], bool]


class Option(Generic[T]):
    """One option: a descriptor that reads its variable once and leaves the value on the `Settings`.

    `default` is what an unset variable means; a function when it depends on the machine.
    """

    def __init__(self, variable: str, kind: Kind[T], default: Callable[[], T], shown: str, doc: str) -> None:
        self.variable = variable
        self.kind = kind
        self.default = default
        self.shown_default = shown
        self.__doc__ = doc
        self.name = ""

    def __set_name__(self, _: type[object], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, settings: None, owner: type[object]) -> Option[T]: ...
    @overload
    def __get__(self, settings: Settings, owner: type[object]) -> T: ...
    def __get__(self, settings: Settings | None, owner: type[object]) -> Option[T] | T:
        if settings is None:
            return self
        known = vars(_base)
        if self.name not in known:
            # A plain attribute hides this descriptor, so that later reads cost nothing.
            known[self.name] = self.from_environment()
        value: T = known[self.name]
        return value

    def from_environment(self) -> T:
        """The value the environment gives now; raises ConfigError."""
        text = os.environ.get(self.variable, "").strip()
        return self.default() if not text else self.read(text)

    def read(self, text: str) -> T:
        """The value that a text stands for; raises ConfigError."""
        value = self.kind.parse(text) if len(text) <= _LONGEST_VALUE and "\0" not in text else None
        if value is None:
            raise self._refusal(text)
        return value

    def accept(self, value: object) -> T:
        """A typed value, or a text as in the environment; raises ConfigError."""
        if self.kind.holds(value):
            return value  # type: ignore[return-value]
        if isinstance(value, str):
            return self.read(value)
        raise self._refusal(repr(value))

    def _refusal(self, text: str) -> ConfigError:
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        return ConfigError(
            f"`{shown}` is not a value of {self.variable}",
            notes=[f"allowed: {self.kind.allowed}", f"default: {self.shown_default}"],
        )


def _words(words: tuple[L, ...]) -> Kind[L]:
    table: dict[str, L] = {word: word for word in words}
    return Kind(
        ", ".join(words), lambda text: table.get(text.lower()), lambda v: isinstance(v, str) and v in table
    )


_BOOLEANS = {"on": True, "1": True, "true": True, "yes": True}
_BOOLEANS |= {"off": False, "0": False, "false": False, "no": False}

_ON_OFF: Kind[bool] = Kind(
    "on or off (also 1, true, yes, 0, false, no)",
    lambda text: _BOOLEANS.get(text.lower()),
    lambda value: isinstance(value, bool),
)
_PRESENCE: Kind[bool] = Kind("any text: set means yes", lambda _: True, lambda v: isinstance(v, bool))

_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?([kmgt]?i?)b?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int | None:
    """A number of bytes: `2GB` is decimal, `2GiB` binary, a bare number counts bytes; None when malformed.

    >>> parse_bytes("2GB"), parse_bytes("1.5 MiB"), parse_bytes("4096"), parse_bytes("-1")
    (2000000000, 1572864, 4096, None)
    """
    found = _SIZE.fullmatch(text)
    if found is None or found[2].lower() not in _UNITS:
        return None
    whole, _, fraction = found[1].partition(".")
    unit = _UNITS[found[2].lower()]
    size = int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
    return size if size <= MOST_BYTES else None


_BYTES: Kind[int | None] = Kind(
    "a number of bytes such as 268435456, 256MiB or 2GB",
    parse_bytes,
    lambda value: value is None or (type(value) is int and 0 <= value <= MOST_BYTES),
)


def _parse_seconds(text: str) -> float | None:
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text, re.ASCII) is None:
        return None
    seconds = float(text)
    return seconds if 0 < seconds <= LONGEST_TIMEOUT else None


_SECONDS: Kind[float] = Kind(
    f"seconds above 0, at most {LONGEST_TIMEOUT:.0f}",
    _parse_seconds,
    lambda value: type(value) in (int, float) and 0 < value <= LONGEST_TIMEOUT,  # type: ignore[operator]
)
_LEVEL: Kind[int] = Kind(
    "1, 2 or 3",
    lambda text: int(text) if text in ("1", "2", "3") else None,
    lambda value: type(value) is int and value in (1, 2, 3),
)


def _printable(text: str) -> bool:
    return text.isprintable()


def _parse_folder(text: str) -> Path | None:
    if not _printable(text):
        return None
    home = home_folder()
    if text == "~" or text.startswith("~/"):
        return None if home is None else home / text[2:]
    path = Path(text)
    return path if path.is_absolute() else None


_FOLDER: Kind[Path] = Kind(
    "an absolute path, or one that begins with ~/",
    _parse_folder,
    lambda value: isinstance(value, Path) and value.is_absolute(),
)
_COMMAND: Kind[str | None] = Kind(
    "the name or path of one program, without arguments",
    lambda text: text if _printable(text) and not text.startswith("-") else None,
    lambda value: value is None,
)


def _default_cache_folder() -> Path:
    cache = xdg_cache_folder()
    if cache is not None:
        return cache / "tessera"
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    return temporary_folder() / f"tessera-cache-{owner}"


class Settings:
    """The options and their values; `current()` gives the one in force."""

    backend = Option[Backend](
        "TESSERA_BACKEND",
        _words(get_args(Backend)),
        lambda: "auto",
        "auto",
        "What runs compiled functions; `auto` takes `c` for tensors on the CPU and `triton` on a GPU.",
    )
    cache_dir = Option[Path](
        "TESSERA_CACHE_DIR",
        _FOLDER,
        _default_cache_folder,
        "`tessera` in $XDG_CACHE_HOME or ~/.cache",
        "Folder of compiled artifacts; created for its owner alone.",
    )
    cache = Option[CacheMode](
        "TESSERA_CACHE",
        _words(get_args(CacheMode)),
        lambda: "on",
        "on",
        "Whether artifacts are kept between processes; `readonly` uses but never writes them.",
    )
    pool = Option[bool](
        "TESSERA_POOL", _ON_OFF, lambda: True, "on", "Whether freed CPU memory of results is used again."
    )
    pool_limit = Option[int | None](
        "TESSERA_POOL_LIMIT",
        _BYTES,
        lambda: None,
        "chosen by the runtime",
        "Most bytes the memory pool keeps while nobody uses them; GB counts 10^9, GiB 2^30.",
    )
    cc = Option[str | None](
        "TESSERA_CC", _COMMAND, lambda: None, "the first of gcc, cc, clang found", "The C compiler."
    )
    cflags_opt = Option[int](
        "TESSERA_CFLAGS_OPT", _LEVEL, lambda: 2, "2", "Optimisation level of the C compiler, as in -O2."
    )
    compile_timeout = Option[float](
        "TESSERA_COMPILE_TIMEOUT",
        _SECONDS,
        lambda: 120.0,
        "120",
        "Seconds after which a run of the C compiler is given up.",
    )
    shapes = Option[ShapeChecks](
        "TESSERA_SHAPES",
        _words(get_args(ShapeChecks)),
        lambda: "strict",
        "strict",
        "What a shape that does not fit at a call does: raise, warn and run eagerly, or nothing.",
    )
    full_traceback = Option[bool](
        "TESSERA_FULL_TRACEBACK",
        _ON_OFF,
        lambda: False,
        "off",
        "Whether tracebacks keep the frames of Tessera itself.",
    )
    verify = Option[bool](
        "TESSERA_VERIFY", _ON_OFF, lambda: False, "off", "Whether the full verifier runs after each pass."
    )
    stream_stores = Option[Switch](
        "TESSERA_STREAM_STORES",
        _words(get_args(Switch)),
        lambda: "auto",
        "auto",
        "Whether large results are written past the caches.",
    )
    progress = Option[Switch](
        "TESSERA_PROGRESS",
        _words(get_args(Switch)),
        lambda: "auto",
        "auto",
        "Whether long work shows its progress; `auto` does so on a terminal.",
    )
    no_color = Option[bool](
        "NO_COLOR", _PRESENCE, lambda: False, "unset", "Whether output stays without colour everywhere."
    )

    def __init__(self, fixed: Mapping[str, object] | None = None) -> None:
        vars(self).update(fixed or {})


#: Every option, in order, for the documentation.
OPTIONS: tuple[Option[object], ...] = tuple(
    value for value in vars(Settings).values() if isinstance(value, Option)
)

_base = Settings()
_current: ContextVar[Settings] = ContextVar("tessera_settings", default=_base)


def current() -> Settings:
    """The settings in force here."""
    return _current.get()


def refresh() -> None:
    """Forget what was read from the environment; overrides in force stay."""
    vars(_base).clear()


@contextmanager
def override(**values: object) -> Iterator[Settings]:
    """Set options inside a `with` block, by typed value or by a text as in the environment.

    Overrides nest; options that are not named keep their value. Raises ConfigError for an unknown option
    or a value that is not allowed.

    >>> with override(pool_limit="2MB") as settings:
    ...     settings.pool_limit
    2000000
    """
    known = {option.name: option for option in OPTIONS}
    fixed = {name: value for name, value in vars(current()).items() if current() is not _base}
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ConfigError(
                f"there is no option `{name}`",
                notes=[f"options: {', '.join(known)}"],
                helps=[f"`{close[0]}` is one"] if close else [],
            )
        fixed[name] = known[name].accept(value)
    settings = Settings(fixed)
    token = _current.set(settings)
    try:
        yield settings
    finally:
        _current.reset(token)


def unknown_variables() -> tuple[str, ...]:
    """Variables of the environment that look like Tessera's but name no option, sorted."""
    known = {option.variable for option in OPTIONS}
    return tuple(sorted(name for name in os.environ if name.startswith("TESSERA_") and name not in known))


def warn_of_unknown_variables() -> None:
    """A TesseraWarning for each such variable: it has no effect, and is mostly a misspelling."""
    known = [option.variable for option in OPTIONS]
    for name in unknown_variables():
        close = difflib.get_close_matches(name, known, 1)
        meant = f"; `{close[0]}` is one" if close else ""
        warnings.warn(TesseraWarning(f"`{name}` is no option{meant}", code=ConfigError.default_code), stacklevel=3)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of options in the documentation."""

    variable: str
    name: str
    allowed: str
    default: str
    meaning: str


def rows() -> tuple[Row, ...]:
    """The table of options, one row each."""
    return tuple(
        Row(option.variable, option.name, option.kind.allowed, option.shown_default, option.__doc__ or "")
        for option in OPTIONS
    )


def home_folder() -> Path | None:
    """$HOME when it is an absolute path."""
    return _absolute("HOME")


def xdg_cache_folder() -> Path | None:
    """$XDG_CACHE_HOME when it is an absolute path, otherwise `.cache` in the home folder."""
    home = home_folder()
    return _absolute("XDG_CACHE_HOME") or (None if home is None else home / ".cache")


def temporary_folder() -> Path:
    """The folder for temporary files: $TMPDIR where files can be made in it, else what the system uses."""
    chosen = _absolute("TMPDIR")
    usable = chosen is not None and chosen.is_dir() and os.access(chosen, os.W_OK | os.X_OK)
    return chosen if chosen is not None and usable else Path(tempfile.gettempdir())


def search_path() -> str:
    """$PATH, where programs are looked for; the system's default when unset."""
    return os.environ.get("PATH") or os.defpath


def _absolute(variable: str) -> Path | None:
    text = os.environ.get(variable, "")
    return Path(text) if text.startswith("/") or Path(text).is_absolute() else None


#: What a child process sees of the environment.
_INHERITED = ("PATH", "HOME", "TMPDIR", "SYSTEMROOT", "SDKROOT", "DEVELOPER_DIR", "LD_LIBRARY_PATH")


def child_environment() -> dict[str, str]:
    """The environment for a child process such as the C compiler: few variables, messages in English."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "LC_ALL": "C"}


def color_wanted(stream: TextIO) -> bool:
    """Whether text for a stream is coloured: on a terminal that can, unless NO_COLOR is set."""
    return not current().no_color and os.environ.get("TERM") != "dumb" and _is_terminal(stream)


def progress_wanted(stream: TextIO) -> bool:
    """Whether long work shows its progress on a stream."""
    choice = current().progress
    return choice == "on" or (choice == "auto" and _is_terminal(stream))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # a closed stream
        return False


def _full_traceback_wanted() -> bool:
    """A malformed value must not hide the error that is being shown."""
    try:
        return current().full_traceback
    except ConfigError:
        return True


keep_full_tracebacks_when(_full_traceback_wanted)
