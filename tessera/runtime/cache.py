"""The artifact cache: what was compiled once is not compiled again, in this process or the next.

A layer in memory stands before a private folder. Nothing here can make a call fail: a folder that is
unsafe, full or read-only is reported once, and the work goes on without it. What comes from the folder
is believed only when its owner, its kind, its size and its digest are right.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import warnings
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tessera import config
from tessera.backends.base import Packed
from tessera.diag import Diagnostic, Help, Note, TesseraWarning
from tessera.runtime.private_dir import UnsafeFolderError, fresh_private, open_private
from tessera.runtime.store import Folder

_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)

#: Bytes of artifacts kept on disk and in memory.
DISK_LIMIT = 1 << 30
MEMORY_LIMIT = 256 << 20

#: Failures of a write that pass: another process is at work on the same name, or the mount moved.
_PASSING = (errno.EBUSY, errno.ESTALE, errno.EINTR)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the process began, and what the folder holds now.

    `rejected` counts entries on disk that did not verify; each was set aside and built anew.
    """

    memory_hits: int
    disk_hits: int
    misses: int
    stored: int
    rejected: int
    evicted: int
    entries: int
    bytes: int
    folder: Path | None


class ArtifactCache:
    """Artifacts by content key.

    `mode` is "on", "off" (this process only) or "readonly" (use the folder, never change it). The folder
    is opened when it is first needed.

    >>> cache = ArtifactCache(Path("/nowhere"), "off")
    >>> cache.get_or_build("0" * 64, lambda: Packed("0" * 64, "c", {"library": b"code"})).kind
    'c'
    >>> cache.stats().memory_hits, cache.stats().misses
    (0, 1)
    """

    def __init__(
        self,
        folder: Path,
        mode: config.CacheMode = "on",
        *,
        disk_limit: int = DISK_LIMIT,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        self._path = folder
        self._mode = mode
        self._disk_limit = disk_limit
        self._memory_limit = memory_limit
        self._memory: OrderedDict[str, Packed] = OrderedDict()
        self._memory_bytes = 0
        self._counts: Counter[str] = Counter()
        self._folder: Folder | None = None
        self._opened = mode == "off"
        self._warned = False
        self.renew_locks()
        _caches.add(self)

    def renew_locks(self) -> None:
        """New locks: in a forked child the old ones may belong to threads that do not exist there."""
        self._lock = threading.RLock()
        self._building: dict[str, tuple[threading.RLock, int]] = {}

    def get(self, key: str) -> Packed | None:
        """The artifact of a key, or None. Raises ValueError when the key is not 64 hexadecimal digits."""
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"{key!r} is not a content key")
        packed = self._from_memory(key)
        if packed is not None:
            return packed
        folder = self._open_folder()
        found = "missing" if folder is None else folder.read(key)
        if isinstance(found, Packed):
            self._count("disk_hits")
            self._remember(found)
            return found
        if found == "rejected":
            self._count("rejected")
        self._count("misses")
        return None

    def put(self, packed: Packed) -> None:
        """Keep an artifact. A folder that cannot take it is reported once; that is never an error."""
        if _KEY.fullmatch(packed.key) is None:
            raise ValueError(f"{packed.key!r} is not a content key")
        self._remember(packed)
        folder = self._open_folder()
        if folder is None or not folder.writable:
            return
        try:
            folder.write(packed)
        except OSError as failure:
            self._write_failed(folder, failure)
        else:
            self._count("stored")

    def get_or_build(self, key: str, build: Callable[[], Packed]) -> Packed:
        """The artifact of a key, built at most once at a time in this process when it is missing.

        What `build` raises passes through, and the next call tries again. Raises ValueError when it
        returns an artifact of another key.
        """
        packed = self.get(key)
        if packed is not None:
            return packed
        with self._build_lock(key):
            packed = self._from_memory(key)
            if packed is None:
                packed = build()
                if packed.key != key:
                    raise ValueError(f"built the artifact {packed.key} instead of {key}")
                self.put(packed)
        return packed

    def stats(self) -> CacheStats:
        """What happened so far, and the state of the folder (which is listed for it)."""
        folder = self._folder
        entries, size = (0, 0)
        if folder is not None:
            with contextlib.suppress(OSError):
                entries, size = folder.usage()
        with self._lock:
            counts = dict(self._counts)
        return CacheStats(
            memory_hits=counts.get("memory_hits", 0),
            disk_hits=counts.get("disk_hits", 0),
            misses=counts.get("misses", 0),
            stored=counts.get("stored", 0),
            rejected=counts.get("rejected", 0),
            evicted=0 if folder is None else folder.evicted,
            entries=entries,
            bytes=size,
            folder=None if folder is None else folder.path,
        )

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _from_memory(self, key: str) -> Packed | None:
        with self._lock:
            packed = self._memory.get(key)
            if packed is not None:
                self._memory.move_to_end(key)
                self._counts["memory_hits"] += 1
            return packed

    def _remember(self, packed: Packed) -> None:
        with self._lock:
            old = self._memory.pop(packed.key, None)
            self._memory_bytes += _size(packed) - (0 if old is None else _size(old))
            self._memory[packed.key] = packed
            while self._memory_bytes > self._memory_limit:
                _, dropped = self._memory.popitem(last=False)
                self._memory_bytes -= _size(dropped)

    @contextlib.contextmanager
    def _build_lock(self, key: str) -> Iterator[None]:
        """A lock for one key; a build that asks for its own key again does not wait for itself."""
        with self._lock:
            lock, users = self._building.get(key, (threading.RLock(), 0))
            self._building[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._building.get(key, (lock, 0))
                if users > 1:
                    self._building[key] = (lock, users - 1)
                else:
                    self._building.pop(key, None)

    def _open_folder(self) -> Folder | None:
        if self._opened:
            return self._folder
        with self._lock:
            if not self._opened:
                self._folder = self._choose_folder()
                self._opened = True
            return self._folder

    def _choose_folder(self) -> Folder | None:
        """The configured folder when it is safe, else one of our own for this process, else none."""
        writable = self._mode == "on"
        path = self._path / "artifacts"
        try:
            return Folder(open_private(path, create=writable), path, self._disk_limit, writable)
        except UnsafeFolderError as failure:
            self._warn(
                "the cache folder is not safe to use",
                f"{failure.path} {failure.reason}",
                "give it and the folders above it to one owner with mode 0700, or set TESSERA_CACHE_DIR",
            )
        except OSError as failure:
            if isinstance(failure, FileNotFoundError) and not writable:
                return None
            self._warn(
                "the cache folder cannot be used", f"{path}: {failure.strerror}", "set TESSERA_CACHE_DIR"
            )
        if not writable:
            return None
        try:
            descriptor, own = fresh_private()
        except OSError:
            return None
        return Folder(descriptor, own, self._disk_limit)

    def _write_failed(self, folder: Folder, failure: OSError) -> None:
        """Warn once and stop writing; what is in the folder stays in use."""
        if failure.errno in _PASSING:
            return
        if failure.errno == errno.ENOENT:
            # Somebody removed the folder as a whole; the next write makes it again.
            with self._lock:
                if self._folder is folder:
                    self._opened = False
            return
        folder.writable = False
        self._warn(
            "compiled artifacts cannot be kept",
            f"{folder.path}: {failure.strerror}",
            "free space there or set TESSERA_CACHE_DIR",
        )

    def _warn(self, message: str, fact: str, advice: str) -> None:
        with self._lock:
            if self._warned:
                return
            self._warned = True
        found = Diagnostic("TSR0606", message, notes=(Note(fact),), helps=(Help(advice),), severity="warning")
        warnings.warn(TesseraWarning.from_diagnostics([found]), stacklevel=2)


def _size(packed: Packed) -> int:
    return 512 + sum(len(data) for data in packed.payloads.values())


_caches: weakref.WeakSet[ArtifactCache] = weakref.WeakSet()


def _after_fork() -> None:
    for cache in list(_caches):
        cache.renew_locks()


os.register_at_fork(after_in_child=_after_fork)


def default_cache() -> ArtifactCache:
    """The cache of this process for TESSERA_CACHE and TESSERA_CACHE_DIR as they are now."""
    settings = config.current()
    return _cache_for(settings.cache_dir, settings.cache)


@lru_cache(maxsize=16)
def _cache_for(folder: Path, mode: Literal["on", "off", "readonly"]) -> ArtifactCache:
    return ArtifactCache(folder, mode)
