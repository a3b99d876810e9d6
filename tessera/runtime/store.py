"""One folder of artifacts: files that are whole or not there, and are believed only when they verify."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tessera.backends.base import Json, Packed

_MAGIC = b"tessera artifact 1\n"
_DIGEST = 64
_LENGTH = 16
_PREFIX = len(_MAGIC) + _DIGEST + 1 + _LENGTH + 1

#: A file larger than this is no artifact, in bytes.
LARGEST = 256 << 20

#: Seconds after which a file that a killed process left behind is removed.
_ABANDONED = 3600.0

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: What reading an entry can end as, besides an artifact.
Absent = Literal["missing", "rejected"]


class _Invalid(Exception):
    """Bytes that are not the artifact asked for."""


def encode(packed: Packed) -> bytes:
    """An artifact as one string of bytes: a digest of the rest, a JSON header, the payloads in order.

    Raises TypeError when the metadata is not JSON and ValueError when it is too large to be stored.
    """
    sizes = [[name, len(data)] for name, data in packed.payloads.items()]
    fields = {"key": packed.key, "kind": packed.kind, "payloads": sizes, "metadata": dict(packed.metadata)}
    header = json.dumps(fields, separators=(",", ":")).encode()
    body = b"".join([b"%016x\n" % len(header), header, *packed.payloads.values()])
    if len(body) + _PREFIX > LARGEST:
        raise ValueError(f"an artifact of {len(body)} bytes is larger than {LARGEST}")
    return b"".join([_MAGIC, hashlib.sha256(body).hexdigest().encode(), b"\n", body])


def decode(data: bytes, key: str) -> Packed | None:
    """The artifact of that key, or None when the bytes are anything else, however they differ.

    Nothing is interpreted before the digest is verified.

    >>> stored = encode(Packed("0" * 64, "c", {"library": b"code"}, {"entries": ["run"]}))
    >>> decode(stored, "0" * 64).payloads["library"]
    b'code'
    >>> decode(stored[:-1], "0" * 64) is decode(stored, "1" * 64) is None
    True
    """
    start = len(_MAGIC) + _DIGEST + 1
    if len(data) < _PREFIX or not data.startswith(_MAGIC):
        return None
    if hashlib.sha256(memoryview(data)[start:]).hexdigest().encode() != data[len(_MAGIC) : start - 1]:
        return None
    try:
        return _parse(data, key)
    except (_Invalid, ValueError, TypeError, KeyError, RecursionError):
        return None


def _parse(data: bytes, key: str) -> Packed:
    begin = _PREFIX
    end = begin + int(data[begin - _LENGTH - 1 : begin - 1], 16)
    fields = json.loads(data[begin:end])
    if fields["key"] != key:
        raise _Invalid
    payloads: dict[str, bytes] = {}
    for name, size in fields["payloads"]:
        if type(name) is not str or type(size) is not int or size < 0:
            raise _Invalid
        payloads[name] = data[end : end + size]
        end += size
    metadata: Mapping[str, Json] = fields["metadata"]
    if end != len(data) or type(fields["kind"]) is not str or type(metadata) is not dict:
        raise _Invalid
    return Packed(key, fields["kind"], payloads, metadata)


@dataclass
class Folder:
    """A folder of artifacts behind a descriptor; `limit` bounds its size in bytes.

    Writers need no lock: each writes a file of its own and renames it, and the last one wins. Readers
    take a whole copy before they look at it, so removing or replacing an entry never disturbs them.
    """

    descriptor: int
    path: Path
    limit: int
    writable: bool = True
    evicted: int = 0

    def __post_init__(self) -> None:
        self._scanning = threading.Lock()
        self._unseen: int | None = None
        self._touched: set[str] = set()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

    def read(self, key: str) -> Packed | Absent:
        """The artifact of a key. What does not verify is set aside and counts as rejected."""
        name = _file_name(key)
        try:
            data = self._read_bytes(name)
        except FileNotFoundError:
            return "missing"
        except _Invalid:
            self.set_aside(name)
            return "rejected"
        except OSError as failure:
            return self._unreadable(name, failure)
        packed = decode(data, key)
        if packed is None:
            self.set_aside(name)
            return "rejected"
        return packed

    def _read_bytes(self, name: str) -> bytes:
        descriptor = os.open(name, _READ, dir_fd=self.descriptor)
        try:
            found = os.fstat(descriptor)
            # No links to it any more is fine: somebody replaced it while it was being opened.
            ours = found.st_uid == os.geteuid() and found.st_nlink <= 1
            closed = not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if not (stat.S_ISREG(found.st_mode) and ours and closed and _PREFIX <= found.st_size <= LARGEST):
                raise _Invalid
            data = _read_all(descriptor, found.st_size)
            self._touch(descriptor, name)
            return data
        finally:
            os.close(descriptor)

    def _touch(self, descriptor: int, name: str) -> None:
        """Note, once a process, that the entry is in use: eviction takes the longest unused."""
        if self.writable and name not in self._touched:
            self._touched.add(name)
            with contextlib.suppress(OSError):
                os.utime(descriptor)

    def _unreadable(self, name: str, failure: OSError) -> Absent:
        """A link is refused by the system itself; other failures (permissions, a stale mount) are a miss."""
        try:
            found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return "missing"
        if stat.S_ISREG(found.st_mode):
            return "missing"
        self.set_aside(name)
        return "rejected"

    def set_aside(self, name: str) -> None:
        """Take an entry that cannot be believed out of the way: remove it, or rename what is a folder."""
        if not self.writable:
            return
        aside = f".bad-{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):
            os.rename(name, aside, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            os.unlink(aside, dir_fd=self.descriptor)

    def write(self, packed: Packed) -> None:
        """Publish an artifact: it appears whole, under its key, or not at all.

        Raises OSError when it cannot be written; nothing is left behind then, nor after an interrupt.
        """
        data = encode(packed)
        temporary = f".tmp-{secrets.token_hex(8)}"
        try:
            self._write_bytes(temporary, data)
            name = _file_name(packed.key)
            os.replace(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self.descriptor)
            raise
        self._make_room(packed.key, len(data))

    def _write_bytes(self, name: str, data: bytes) -> None:
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=self.descriptor)
        try:
            os.fchmod(descriptor, 0o600)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _make_room(self, newest: str, written: int) -> None:
        """Look at the whole folder at the first write, and again after each sixteenth of the limit."""
        if not self._scanning.acquire(blocking=False):
            return
        try:
            if self._unseen is not None and self._unseen + written < self.limit // 16:
                self._unseen += written
                return
            self._unseen = 0
            with contextlib.suppress(OSError):
                self._evict(_file_name(newest))
        finally:
            self._scanning.release()

    def _evict(self, newest: str) -> None:
        """Remove what killed processes left, and the longest unused entries above the limit."""
        total = 0
        entries: list[tuple[float, int, str]] = []
        now = time.time()
        for name, found in self._listing():
            if name.startswith("."):
                if now - found.st_mtime > _ABANDONED:
                    self._remove(name)
                continue
            total += found.st_size
            if name != newest:
                entries.append((found.st_mtime, found.st_size, name))
        if total <= self.limit:
            return
        for _, size, name in sorted(entries):
            if total <= self.limit * 4 // 5:
                break
            if self._remove(name):
                self.evicted += 1
                total -= size

    def _remove(self, name: str) -> bool:
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except OSError:
            return False
        return True

    def _listing(self) -> list[tuple[str, os.stat_result]]:
        """Names and states of the regular files, links not followed."""
        found = []
        with os.scandir(self.descriptor) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_file(follow_symlinks=False):
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
        return found

    def usage(self) -> tuple[int, int]:
        """Number and bytes of the entries."""
        with self._scanning:
            sizes = [found.st_size for name, found in self._listing() if not name.startswith(".")]
        return len(sizes), sum(sizes)


def _file_name(key: str) -> str:
    return f"{key}.artifact"


def _read_all(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.read(descriptor, size)
        if not part:
            raise _Invalid
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
