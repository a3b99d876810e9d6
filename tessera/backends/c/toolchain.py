"""Find the C compiler, know it, and turn C source into the bytes of a shared library.

A compiler is one program, run from an argument list without a shell, in a folder of its own that is
removed whatever happens. It never sees a user's name: files are named by the digest of the source.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tessera import config
from tessera.backends.c.host import cpu_identity, host_target
from tessera.backends.c.openmp import OpenMP
from tessera.diag import ResourceError

__all__ = ["CompileOptions", "Compiler", "compile_shared", "find_compiler", "host_target", "toolchain_key"]

Family = Literal["gcc", "clang", "other"]

#: Names tried, in order, when TESSERA_CC is unset.
_CANDIDATES = ("gcc", "cc", "clang")

#: Seconds for the questions put to a compiler; a compilation has its own limit.
_QUESTION_SECONDS = 20.0

#: Lines of compiler output quoted in an error.
_QUOTED_LINES = 8

#: The meaning of the arithmetic, the same at every level of optimisation. NaN and infinity are real,
#: nothing is reassociated or contracted, signed integers wrap, and pointers of any type may alias.
_SEMANTICS = (
    "-std=gnu11",
    "-fno-fast-math",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fwrapv",
    "-fno-strict-aliasing",
)

#: Position-independent code of which only the marked entry points are visible. `-pipe` is worth 2 ms.
_SHAPE = ("-ftree-vectorize", "-fPIC", "-fvisibility=hidden", "-g0", "-pipe", "-w", "-Wno-psabi")

#: Options a caller may add by beginning; anything else could change the meaning or name a file.
_EXTRA_ALLOWED = ("-mprefer-vector-width=", "-funroll-loops", "-fno-tree-", "-ftree-", "-fno-math-errno")


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler: its file, family, first version line, and a digest that changes when it does."""

    path: str
    family: Family
    version: str
    identity: str


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How a kernel is compiled; all of it belongs in the key of the artifact.

    `level` is the optimisation level 0 to 3, `march` the argument of `-march` (`native` takes what the
    host has), `libm` says whether functions of the mathematical library are called, and `extra` adds
    optimisation options from a short list that keeps the arithmetic as it is.
    """

    level: int = 2
    openmp: bool = True
    march: str = "native"
    libm: bool = False
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.level not in (0, 1, 2, 3):
            raise ValueError(f"level {self.level} is not 0, 1, 2 or 3")
        if not self.march.replace("-", "").replace("_", "").replace("+", "").replace(".", "").isalnum():
            raise ValueError(f"{self.march!r} does not name an architecture")
        for option in self.extra:
            if not option.startswith(_EXTRA_ALLOWED):
                raise ValueError(f"{option!r} is not an option that kernels are compiled with")

    def flags(self) -> tuple[str, ...]:
        """The arguments that shape the code, without files and libraries."""
        machine = () if self.march == "native" and not _native_known() else (f"-march={self.march}",)
        return (*_SEMANTICS, f"-O{self.level}", *machine, *_SHAPE, *self.extra)


def _native_known() -> bool:
    """Clang on Apple's processors knows no `-march=native`; its default is the host there."""
    return not (sys.platform == "darwin" and host_target().arch == "arm64")


def find_compiler() -> Compiler:
    """The compiler that TESSERA_CC names, or else the first of gcc, cc and clang on the search path.

    The value of TESSERA_CC is one program, never split at spaces and never given to a shell.
    Raises ResourceError (TSR0601) when there is no such program.
    """
    chosen = config.current().cc
    names = _CANDIDATES if chosen is None else (chosen,)
    for name in names:
        path = _which(name, config.search_path())
        if path is not None:
            found = os.stat(path)
            return _identify(path, found.st_mtime_ns, found.st_size)
    raise ResourceError(
        "no C compiler" if chosen is None else f"the C compiler `{chosen}` is not a program",
        code="TSR0601",
        notes=[f"looked for {', '.join(f'`{name}`' for name in names)} on the search path"],
        helps=[
            "install gcc or clang, or name one in TESSERA_CC"
            if chosen is None
            else "name one program in TESSERA_CC, without arguments"
        ],
    )


def _which(name: str, search: str) -> str | None:
    """The file of a program; only absolute folders of the search path count."""
    if os.sep in name:
        return os.path.abspath(name) if os.path.isfile(name) and os.access(name, os.X_OK) else None
    folders = os.pathsep.join(folder for folder in search.split(os.pathsep) if os.path.isabs(folder))
    return shutil.which(name, path=folders)


@lru_cache(maxsize=16)
def _identify(path: str, mtime_ns: int, size: int) -> Compiler:
    """What a compiler says about itself; asked once for each state of its file."""
    with _private_folder() as folder:  # no room for a folder says nothing about the compiler
        try:
            done = _run([path, "--version"], folder, _QUESTION_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise _unusable(path, str(failure)) from None
    if done.code != 0 or not done.output.strip():
        raise _unusable(path, done.output or f"exit status {done.code}")
    text = done.output
    state = "\n".join([os.path.realpath(path), str(mtime_ns), str(size), text])
    digest = hashlib.sha256(state.encode()).hexdigest()
    return Compiler(path, _family(text), text.splitlines()[0].strip(), digest)


def _family(version: str) -> Family:
    """Who made the compiler; gcc under the name `cc` still names the holder of its copyright."""
    if "clang" in version.lower():
        return "clang"
    return "gcc" if "gcc" in version.lower() or "Free Software Foundation" in version else "other"


def _unusable(path: str, reason: str) -> ResourceError:
    return ResourceError(
        f"`{path}` does not work as a C compiler",
        code="TSR0601",
        notes=[line for line in reason.splitlines() if line.strip()][:_QUOTED_LINES],
        helps=["install gcc or clang, or name one in TESSERA_CC"],
    )


def toolchain_key(compiler: Compiler, options: CompileOptions, openmp: OpenMP | None) -> tuple[str, ...]:
    """The parts of an artifact's key that this room answers for: compiler, options, processor, OpenMP."""
    machine = cpu_identity() if options.march == "native" else options.march
    runtime = openmp.identity if openmp is not None and options.openmp else "serial"
    return (compiler.identity, *options.flags(), f"libm={options.libm}", machine, runtime)


def compile_shared(
    source: str,
    *,
    options: CompileOptions | None = None,
    compiler: Compiler | None = None,
    openmp: OpenMP | None = None,
    timeout: float | None = None,
) -> bytes:
    """Compile C source into a shared library and return its bytes.

    `openmp` is the runtime to link against, from `openmp.loaded()`; without it, or where the compiler
    cannot serve it, pragmas are ignored and the kernel is serial. `timeout` is in seconds and defaults
    to TESSERA_COMPILE_TIMEOUT. A compiler that crashes or exceeds it gets a second chance at `-O1`.
    Raises ResourceError (TSR0601, TSR0602).

    >>> code = compile_shared("int tessera_answer(void) { return 42; }")
    >>> code[:4] == b"\\x7fELF" or sys.platform != "linux"
    True
    """
    options = options or CompileOptions()
    compiler = compiler or find_compiler()
    limit = config.current().compile_timeout if timeout is None else timeout
    try:
        return _compile_once(source, options, compiler, openmp, limit)
    except _Crash as first:
        try:
            gentler = replace(options, level=min(options.level, 1))
            return _compile_once(source, gentler, compiler, openmp, limit)
        except _Crash as second:
            raise _failed(compiler, second.reason, first.output or second.output) from None


class _Crash(Exception):
    """The compiler died, found a fault in itself, or took too long."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.output = output


def _compile_once(
    source: str, options: CompileOptions, compiler: Compiler, openmp: OpenMP | None, limit: float
) -> bytes:
    data = source.encode()
    stem = f"tessera-{hashlib.sha256(data).hexdigest()[:16]}"
    with _private_folder() as folder:
        file = folder / f"{stem}.c"
        target = folder / f"{stem}.so"
        file.write_bytes(data)
        argv = [compiler.path, *options.flags(), *_linking(compiler, options, openmp, file.name, target.name)]
        try:
            done = _run(argv, folder, limit)
        except subprocess.TimeoutExpired:
            raise _Crash(f"took longer than {limit:g} s") from None
        except OSError as failure:
            raise _failed(compiler, str(failure), "") from None
        if done.code != 0:
            if _crashed(done):
                raise _Crash(_how_it_ended(done.code), done.output)
            raise _failed(compiler, _how_it_ended(done.code), done.output)
        try:
            library = target.read_bytes()
        except FileNotFoundError:
            raise _failed(compiler, "exit status 0 without a result", done.output) from None
    if len(library) < 64:
        raise _failed(compiler, "the result is not a library", done.output)
    return library


def _linking(
    compiler: Compiler, options: CompileOptions, openmp: OpenMP | None, file: str, target: str
) -> Iterator[str]:
    """Files, libraries and linker options.

    A kernel needs no start files, and functions of the C library are found in the process that loads it:
    not linking those saves a fifth of the time of a small kernel. OpenMP is linked by the file that this
    process already uses, so that its name in the library is the one that is loaded.
    """
    runtime = openmp if options.openmp and openmp is not None and openmp.serves(compiler.family) else None
    if runtime is not None:
        yield from runtime.compile_flags(compiler.family)
    yield from ("-x", "c", file, "-x", "none", "-shared", "-o", target)
    if sys.platform == "darwin":
        yield from ("-undefined", "dynamic_lookup")
    else:
        yield from ("-nostdlib", "-Wl,--as-needed,--build-id=none,-z,noexecstack,-z,now")
        if compiler.family == "gcc":
            yield "-fno-use-linker-plugin"
    if runtime is not None:
        yield runtime.path
    if options.libm:
        yield "-lm"
    if compiler.family == "gcc":
        yield "-lgcc"


def _crashed(done: _Done) -> bool:
    """A signal, or the driver's own report that a part of it died."""
    signs = ("internal compiler error", "Segmentation fault", "error: Killed", "signal terminated program")
    return done.code < 0 or done.code > 128 or any(sign in done.output for sign in signs)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def _failed(compiler: Compiler, reason: str, output: str) -> ResourceError:
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if "error" in line.lower()), 0)
    return ResourceError(
        f"the C compiler failed: {reason}",
        code="TSR0602",
        notes=[f"compiler: {compiler.path} ({compiler.version})", *lines[first : first + _QUOTED_LINES]],
    )


@dataclass(frozen=True, slots=True)
class _Done:
    code: int
    output: str


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A new folder for us alone, gone afterwards even when a child still writes into it."""
    folder = tempfile.mkdtemp(prefix="tessera-", dir=config.temporary_folder())
    try:
        yield Path(folder)
    finally:
        for _ in range(3):
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.lexists(folder):
                break


def _run(argv: list[str], folder: Path, limit: float) -> _Done:
    """Run a program to its end, in a process group of its own that does not outlive this call.

    Raises OSError when it cannot start and TimeoutExpired after `limit` seconds; on these and on an
    interrupt, the whole group is killed first.
    """
    environment = {**config.child_environment(), "TMPDIR": str(folder)}
    with _interrupts_held() as interrupts:
        child = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if interrupts:
            raise KeyboardInterrupt
        # Waiting for the end of the output returns at once; waiting with a limit for the process polls.
        output, _ = child.communicate(timeout=limit)
    except BaseException:
        _kill_group(child)
        raise
    return _Done(child.returncode, output.decode("utf-8", "replace"))


@contextlib.contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """Keeps a Ctrl-C for later: one that came while a process starts would leave nobody to stop that process."""
    came: list[int] = []
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield came
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
