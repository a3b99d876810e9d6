"""Content addresses: one digest over everything that shaped an artifact."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch

#: What a key is made of: plain values, and sequences and mappings of them to any depth.
Part = None | bool | int | float | str | bytes | Sequence["Part"] | Mapping[str, "Part"]


def content_key(*parts: Part) -> str:
    """A digest of the parts in which no two different lists of parts are written alike.

    Every value carries its type and length: ("ab", "c") and ("a", "bc"), 1 and "1" and True, an empty
    list and nothing all differ. The order of a mapping does not matter. Raises TypeError for a value of
    any other type.

    >>> content_key("ab", "c") == content_key("a", "bc")
    False
    >>> content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    True
    >>> len(content_key())
    64
    """
    digest = hashlib.sha256(b"tessera key 1")
    pending: list[Part] = [tuple(parts)]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping):
            digest.update(b"m%d;" % len(part))
            for name in sorted(part, reverse=True):
                pending += (part[name], name)
        elif isinstance(part, (list, tuple)):
            digest.update(b"l%d;" % len(part))
            pending.extend(reversed(part))
        else:
            tag, data = _scalar(part)
            digest.update(b"%b%d;" % (tag, len(data)))
            digest.update(data)
    return digest.hexdigest()


def _scalar(part: object) -> tuple[bytes, bytes]:
    if part is None:
        return b"n", b""
    if isinstance(part, bool):
        return b"b", b"1" if part else b"0"
    if isinstance(part, int):
        return b"i", b"%x" % part
    if isinstance(part, float):
        return b"f", struct.pack("<d", part)
    if isinstance(part, str):
        return b"s", part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return b"y", part
    raise TypeError(f"a {type(part).__name__} has no place in a key")


@lru_cache(maxsize=1)
def environment_parts() -> tuple[str, ...]:
    """What every key contains: this installation of Tessera, and torch's version.

    The installation is known by names, sizes and times of its files, so that a changed line of the
    compiler never meets an artifact of the old one.
    """
    digest = hashlib.sha256()
    for entry in sorted(_package_files(str(Path(__file__).parent.parent))):
        digest.update(repr(entry).encode())
    return ("tessera", digest.hexdigest(), "torch", str(torch.__version__))


def _package_files(root: str) -> Iterator[tuple[str, int, int]]:
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith(("__pycache__", ".")):
                        pending.append(entry.path)
                elif entry.name.endswith((".py", ".lark", ".pyc", ".so")):
                    found = entry.stat()
                    yield os.path.relpath(entry.path, root), found.st_size, found.st_mtime_ns
