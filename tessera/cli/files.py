"""Finding the decorated functions of Python files: each is imported as Python itself would import it."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from tessera import Function, config
from tessera.diag import TesseraError


class UsageError(Exception):
    """A command that cannot do its work as it was given; the text says why."""


@dataclass
class Loaded:
    """One file: the functions that it defines by qualified name, or why it could not be run."""

    path: Path
    functions: dict[str, Function[..., Any]] = field(default_factory=dict)
    failure: BaseException | None = None

    @property
    def reason(self) -> str:
        """Why the file could not be run, in one line that begins with the place."""
        assert self.failure is not None
        return f"{_place(self.path, self.failure)}: cannot be run: {_one_line(self.failure)}"


def _one_line(failure: BaseException) -> str:
    if isinstance(failure, SystemExit):
        return f"it ends the program with status {failure.code}; guard that with `if __name__ == \"__main__\"`"
    text = str(failure.msg if isinstance(failure, SyntaxError) else failure).splitlines()
    return f"{type(failure).__name__}: {text[0]}" if text else type(failure).__name__


def _place(path: Path, failure: BaseException) -> str:
    """The innermost line of the file, or of one beside or below it, that the failure went through."""
    if isinstance(failure, SyntaxError) and failure.filename and failure.lineno:
        return f"{_shown(Path(failure.filename))}:{failure.lineno}"
    folder = path.resolve().parent
    for frame in reversed(traceback.extract_tb(failure.__traceback__)):
        if Path(frame.filename).resolve().is_relative_to(folder) and "site-packages" not in frame.filename:
            return f"{_shown(Path(frame.filename))}:{frame.lineno}"
    return str(path)


def _shown(path: Path) -> Path:
    """Relative to the working folder where it lies below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def expand(paths: Sequence[str]) -> Iterator[Path]:
    """The files themselves, and every ``.py`` file below the folders but hidden ones and programs (``__main__.py``).

    Raises UsageError.
    """
    for text in paths:
        path = Path(text)
        if path.is_dir():
            below = (p for p in path.rglob("*.py") if not any(s.startswith(".") for s in p.relative_to(path).parts))
            found = sorted(p for p in below if p.name != "__main__.py")
            if not found:
                raise UsageError(f"no Python files below `{text}`")
            yield from found
        elif path.exists():
            yield path
        else:
            raise UsageError(f"no such file or folder: `{text}`")


def module_of(path: Path) -> tuple[Path, str]:
    """The folder that a file is imported from and its full name there: ``pkg.sub.mod`` inside packages.

    A file in no package is imported from its own folder.
    """
    path = path.resolve()
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").exists() and folder.name.isidentifier() and folder.parent != folder:
        parts.insert(0, folder.name)
        folder = folder.parent
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return folder, ".".join(parts)


class Files:
    """Imports files, one root folder on ``sys.path`` at a time; leaving the block undoes what it did to Python."""

    def __enter__(self) -> Files:
        self._root: Path | None = None
        self._before = set(sys.modules)
        self._writes = sys.dont_write_bytecode
        sys.dont_write_bytecode = True  # the folders of others stay as they are
        return self

    def __exit__(self, kind: object, error: object, trace: TracebackType | None) -> None:
        self._change(None)
        sys.dont_write_bytecode = self._writes

    def _change(self, root: Path | None) -> None:
        """Import from another folder: what came from the last one may have other files behind the same names."""
        if root == self._root:
            return
        if self._root is not None:
            for name in set(sys.modules) - self._before:
                file = getattr(sys.modules[name], "__file__", None)
                if isinstance(file, str) and Path(file).is_relative_to(self._root) and "site-packages" not in file:
                    del sys.modules[name]
            if str(self._root) in sys.path:
                sys.path.remove(str(self._root))
        if root is not None:
            sys.path.insert(0, str(root))
            importlib.invalidate_caches()
        self._root = root

    def load(self, path: Path) -> Loaded:
        """Import a file (``__name__`` is not ``__main__``) with proofs put off, and collect its functions. What it
        prints is no part of what the command prints.
        """
        found = Loaded(path)
        root, name = module_of(path)
        self._change(root)
        try:
            with config.override(shapes="off"), contextlib.redirect_stdout(sys.stderr):
                module = importlib.import_module(name) if "." in name else _alone(path.resolve(), name)
        except (Exception, SystemExit) as error:
            found.failure = error
            return found
        if Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
            found.failure = ImportError(f"`{name}` is the name of another module")
            return found
        seen: set[int] = set()
        for function, value in _members(vars(module), module.__name__):
            if id(value) not in seen:
                seen.add(id(value))
                found.functions[function] = value
        return found

    def pick(self, target: str) -> Function[..., Any]:
        """The function meant by ``FILE:NAME``, or the only one of ``FILE``; its shapes are proved.

        Raises UsageError, and TesseraError where running the file does or the proof fails.
        """
        found = self._find(target)
        found.check().raise_if_refuted()
        return found

    def _find(self, target: str) -> Function[..., Any]:
        file, _, name = target.rpartition(":") if ":" in target and not Path(target).exists() else (target, "", "")
        path = Path(file)
        if path.is_dir() or not path.exists():
            raise UsageError(f"`{file}` is a folder, not a file" if path.is_dir() else f"no such file: `{file}`")
        loaded = self.load(path)
        if isinstance(loaded.failure, TesseraError):
            raise loaded.failure
        if loaded.failure is not None:
            raise UsageError(loaded.reason)
        if name in loaded.functions:
            return loaded.functions[name]
        if not name and len(loaded.functions) == 1:
            return next(iter(loaded.functions.values()))
        listed = ", ".join(loaded.functions) or "none"
        if not name:
            raise UsageError(f"which function of `{file}`? It has: {listed}")
        close = difflib.get_close_matches(name, loaded.functions, 1)
        meant = f"; `{close[0]}` is close" if close else ""
        raise UsageError(f"no function `{name}` in `{file}`{meant}; it has: {listed}")


def _alone(path: Path, name: str) -> ModuleType:
    """A file outside of packages as a module; the one that a neighbour imported, if there is one."""
    known = sys.modules.get(name)
    if known is not None and Path(getattr(known, "__file__", None) or "").resolve() == path:
        return known
    if known is not None:
        name = f"_{name}"  # a file may be called like an installed module
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _members(names: dict[str, Any], module: str) -> Iterator[tuple[str, Function[..., Any]]]:
    for name, value in list(names.items()):
        value = getattr(value, "__func__", value)
        if isinstance(value, Function) and value.__module__ == module:
            yield name, value
        elif isinstance(value, type) and value.__module__ == module:
            for inner, member in vars(value).items():
                member = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if isinstance(member, Function):
                    yield f"{name}.{inner}", member
