"""Load the bytes of a shared library into this process.

The bytes, already verified, go into a sealed memory file and are loaded from there. Nobody can change
or truncate what is mapped: a file on disk, even one opened before it was checked, stays open to its
owner's other programs, and a mapping of a file that shrinks kills the process. Nothing is left to clean.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tessera import config
from tessera.backends.c import openmp
from tessera.diag import ResourceError

_MFD_EXEC = 0x10
_counter = itertools.count()


@dataclass(frozen=True, slots=True)
class SharedObject:
    """A loaded library; it stays loaded until the process ends."""

    name: str
    library: ctypes.CDLL

    def entry(self, name: str) -> Callable[..., object]:
        """A function that returns a C int; raises ResourceError (TSR0607) when there is none.

        Arguments follow the rules of ctypes. The interpreter lock is released while it runs.
        """
        function: Callable[..., object] | None = getattr(self.library, name, None)
        if function is None:
            raise ResourceError(f"library `{self.name}` has no entry `{name}`", code="TSR0607")
        return function

    def address(self, name: str) -> int:
        """Where an entry point is in memory."""
        return ctypes.cast(self.entry(name), ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def load_shared(data: bytes, name: str = "kernel", *, parallel: bool = True) -> SharedObject:
    """Load a library from its bytes.

    `name` shows in debuggers and profilers. A `parallel` library uses OpenMP: forked children are then
    kept to one thread. Raises ResourceError (TSR0607) when the dynamic linker refuses.
    """
    if parallel:
        openmp.guard_forks()
    try:
        with _as_file(data, name) as path:
            return SharedObject(name, ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL))
    except OSError as failure:
        raise ResourceError(
            f"library `{name}` cannot be loaded", code="TSR0607", notes=[str(failure)]
        ) from None


@contextlib.contextmanager
def _as_file(data: bytes, name: str) -> Iterator[str]:
    """A path that leads to exactly these bytes while the block runs."""
    descriptor = _memory_file(name)
    if descriptor is None:
        with _disk_file(data) as path:
            yield path
        return
    try:
        _write_all(descriptor, data)
        _seal(descriptor)
        yield _unique_path(descriptor)
    finally:
        os.close(descriptor)


def _memory_file(name: str) -> int | None:
    """A new memory file, or None where the system has none or forbids running from it."""
    if not hasattr(os, "memfd_create"):
        return None
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    label = f"tessera-{name}"[:200]
    for extra in (_MFD_EXEC, 0):
        try:
            return os.memfd_create(label, flags | extra)
        except OSError as failure:
            # Kernels before 6.3 do not know the flag; later ones may want it.
            if failure.errno != errno.EINVAL:
                return None
    return None


def _seal(descriptor: int) -> None:
    fcntl.fcntl(
        descriptor,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
    )


def _unique_path(descriptor: int) -> str:
    """A path to the descriptor that no earlier library was loaded under.

    The dynamic linker takes an equal path for the same library, and descriptors are used again. So a
    running number is spelled into the path, one character pair a bit: `./` for 1, `/` for 0.
    """
    bits = f"{next(_counter):b}"
    return f"/proc/self/{''.join('./' if bit == '1' else '/' for bit in bits)}fd/{descriptor}"


@contextlib.contextmanager
def _disk_file(data: bytes) -> Iterator[str]:
    """The bytes in a new folder of ours; the mapping outlives the file."""
    folder = tempfile.mkdtemp(prefix="tessera-", dir=config.temporary_folder())
    try:
        path = os.path.join(folder, f"kernel-{next(_counter)}.so")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
