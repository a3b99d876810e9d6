"""The OpenMP runtime that torch has loaded: kernels share it, and with it torch's threads."""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from ctypes import _NamedFuncPointer as _Function

RuntimeFamily = Literal["gomp", "omp", "iomp"]


@dataclass(frozen=True, slots=True)
class OpenMP:
    """An OpenMP runtime that is part of this process: its file and whose interface it speaks."""

    path: str
    family: RuntimeFamily

    @property
    def identity(self) -> str:
        """What a library linked against it depends on: the name under which it is loaded."""
        size = os.stat(self.path).st_size
        return hashlib.sha256(f"{self.path}\n{size}".encode()).hexdigest()

    def serves(self, compiler_family: str) -> bool:
        """Whether code of a compiler can call it: gcc's calls exist in all of them, clang's not in gcc's."""
        return compiler_family == "gcc" or (compiler_family == "clang" and self.family != "gomp")

    def compile_flags(self, compiler_family: str) -> tuple[str, ...]:
        """The arguments that turn pragmas into calls without choosing a library."""
        return ("-Xclang", "-fopenmp") if compiler_family == "clang" else ("-fopenmp",)


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("dli_fname", ctypes.c_char_p),
        ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p),
        ("dli_saddr", ctypes.c_void_p),
    )


@lru_cache(maxsize=1)
def loaded() -> OpenMP | None:
    """The runtime that torch's parallel loops run on, or None when torch was built without OpenMP.

    It is found by asking the dynamic linker which file the function that torch calls comes from, so
    other OpenMP runtimes in the process do not confuse it.
    """
    function = _function("omp_get_max_threads")
    path = None if function is None else _file_of(function)
    if path is None or not os.path.isfile(path):
        return None
    return OpenMP(path, _family(path))


def _family(path: str) -> RuntimeFamily:
    name = Path(path).name
    return "iomp" if "iomp" in name else "gomp" if "gomp" in name else "omp"


def _function(name: str) -> _Function | None:
    """A function as torch sees it: first among the global symbols, then in what torch depends on."""
    for library in _torch_scopes():
        function: _Function | None = getattr(library, name, None)
        if function is not None:
            return function
    return None


def torch_function(name: str) -> _Function | None:
    """A function that torch's own library has or takes from what it depends on, whatever else is loaded."""
    for library in _torch_scopes()[1:]:
        function: _Function | None = getattr(library, name, None)
        if function is not None:
            return function
    return None


def _torch_scopes() -> list[ctypes.CDLL]:
    scopes = [ctypes.CDLL(None)]
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).is_file():
            # RTLD_NOLOAD: only a handle on what `import torch` has loaded.
            scopes.append(ctypes.CDLL(str(folder / name), mode=os.RTLD_NOLOAD | os.RTLD_LAZY))
    return scopes


def _file_of(function: _Function) -> str | None:
    info = _DlInfo()
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes = (ctypes.c_void_p, ctypes.POINTER(_DlInfo))
    if dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(info)) == 0 or not info.dli_fname:
        return None
    return os.fsdecode(info.dli_fname)


_fork_lock = threading.Lock()
_fork_guarded = False


def guard_forks() -> None:
    """From now on a forked child runs its parallel loops on one thread.

    The threads of the pool do not survive a fork, and a team of more than one would wait for them for
    ever. `torch.get_num_threads()` tells a child 1 as well. Called when the first parallel kernel is
    loaded; further calls change nothing.
    """
    global _fork_guarded
    if _fork_guarded:
        return
    set_threads = _function("omp_set_num_threads")
    with _fork_lock:
        if _fork_guarded or set_threads is None:
            return
        set_threads.argtypes = (ctypes.c_int,)
        set_threads.restype = None
        os.register_at_fork(after_in_child=lambda: _one_thread(set_threads))
        _fork_guarded = True


def _one_thread(set_threads: Callable[[int], object]) -> None:
    """Also where somebody has told torch how many: its libraries keep to that by themselves."""
    set_threads(1)
    torch.set_num_threads(1)
