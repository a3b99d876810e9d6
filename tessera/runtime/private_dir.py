"""Folders that nobody but their owner can change, opened so that a later swap of names is harmless."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from tessera import config

#: Write permission for the group or for everybody.
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

#: Open a folder only to look further from it: needs no permission to list it.
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeFolderError(Exception):
    """A folder, or one above it, that somebody else could change; `path` is that one, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason


def open_private(path: Path, *, create: bool = True) -> int:
    """Open a folder of ours and return its descriptor; the caller closes it.

    Walks from the root, one name at a time relative to the folder just checked, following no links. Every
    folder on the way must belong to us or to root, and be writable by its owner alone or sticky; the last
    one must be ours. Missing ones are made with mode 0700 whatever the umask, unless `create` is false.

    Raises UnsafeFolderError for what somebody else could change, and OSError for what cannot be made or
    opened (FileNotFoundError when it is missing and `create` is false).
    """
    names = [name for name in os.path.normpath(_below_real_home(path)).split(os.sep) if name]
    walked = os.sep
    current = os.open(os.sep, _SEARCH)
    try:
        _check(current, walked, last=not names)
        for position, name in enumerate(names):
            walked = os.path.join(walked, name)
            below = _enter(current, name, walked, create)
            os.close(current)
            current = below
            _check(current, walked, last=position == len(names) - 1)
        return os.open(".", _LIST & ~os.O_NOFOLLOW, dir_fd=current)
    finally:
        os.close(current)


def fresh_private() -> tuple[int, Path]:
    """Make a new folder for this process alone, removed when it exits; its descriptor and path.

    Raises OSError when no temporary folder can be made.
    """
    folder = tempfile.mkdtemp(prefix="tessera-cache-", dir=config.temporary_folder())
    atexit.register(_remove_own, folder, os.getpid())
    return os.open(folder, _LIST), Path(folder)


def _remove_own(folder: str, owner: int) -> None:
    """Forked children inherit the exit handler but not the folder."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _below_real_home(path: Path) -> str:
    """The path with the links in the home folder's own name resolved.

    Some machines keep homes behind a link. What the link leads to is checked like everything else.
    """
    home = config.home_folder()
    if home is None or home == path or not path.is_relative_to(home):
        return str(path)
    return os.path.join(os.path.realpath(home), path.relative_to(home))


def _enter(parent: int, name: str, walked: str, create: bool) -> int:
    try:
        return os.open(name, _SEARCH, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    except OSError:
        _refuse_link(parent, name, walked)
        raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        # A umask can only have taken permissions away; give our own back.
        os.chmod(name, 0o700, dir_fd=parent)
    try:
        return os.open(name, _SEARCH, dir_fd=parent)
    except OSError:
        _refuse_link(parent, name, walked)
        raise


def _refuse_link(parent: int, name: str, walked: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            raise UnsafeFolderError(walked, "is a symbolic link")
        if not stat.S_ISDIR(found.st_mode):
            raise UnsafeFolderError(walked, "is not a folder")


def _check(descriptor: int, path: str, *, last: bool) -> None:
    found = os.fstat(descriptor)
    if found.st_uid not in ({os.geteuid()} if last else {0, os.geteuid()}):
        raise UnsafeFolderError(path, f"belongs to user {found.st_uid}")
    if found.st_mode & _OTHERS_WRITE and (last or not found.st_mode & stat.S_ISVTX):
        raise UnsafeFolderError(path, f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})")
