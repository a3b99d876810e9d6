"""Finding the decorated functions of Python files."""

from __future__ import annotations

import runpy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessera import Function, config
from tessera.diag import TesseraError


@dataclass
class Loaded:
    """One file: the functions that it defines by qualified name, or why it could not be run."""

    path: Path
    functions: dict[str, Function[..., Any]] = field(default_factory=dict)
    failure: Exception | None = None


def expand(paths: Sequence[str]) -> Iterator[Path]:
    """The files themselves, and every ``.py`` file below the folders. Raises FileNotFoundError."""
    for text in paths:
        path = Path(text)
        if path.is_dir():
            below = (p for p in path.rglob("*.py") if not any(s.startswith(".") for s in p.relative_to(path).parts))
            yield from sorted(below)
        elif path.exists():
            yield path
        else:
            raise FileNotFoundError(text)


def load(path: Path) -> Loaded:
    """Run a file as a module (``__name__`` is not ``__main__``) with proofs put off, and collect its functions."""
    found = Loaded(path)
    try:
        with config.override(shapes="off"):
            names = runpy.run_path(str(path), run_name=path.stem)
    except (Exception, SystemExit) as error:
        found.failure = error if isinstance(error, TesseraError | Exception) else RuntimeError(f"exits: {error}")
        return found
    seen: set[int] = set()
    for name, value in _members(names, path.stem):
        if id(value) not in seen:
            seen.add(id(value))
            found.functions[name] = value
    return found


def _members(names: dict[str, Any], module: str) -> Iterator[tuple[str, Function[..., Any]]]:
    for name, value in names.items():
        value = getattr(value, "__func__", value)
        if isinstance(value, Function) and value.__module__ == module:
            yield name, value
        elif isinstance(value, type) and value.__module__ == module:
            for inner, member in vars(value).items():
                member = getattr(member, "__func__", member)
                if isinstance(member, Function):
                    yield f"{name}.{inner}", member


def pick(target: str) -> Function[..., Any]:
    """The function meant by ``FILE:NAME``, or the only one of ``FILE``. Raises LookupError, and what running the
    file raises.
    """
    file, _, name = target.rpartition(":") if ":" in target and not Path(target).exists() else (target, "", "")
    path = Path(file)
    if not path.exists():
        raise LookupError(f"no file `{file}`")
    loaded = load(path)
    if loaded.failure is not None:
        raise loaded.failure
    if name in loaded.functions:
        return loaded.functions[name]
    listed = ", ".join(loaded.functions) or "none"
    if not name and len(loaded.functions) == 1:
        return next(iter(loaded.functions.values()))
    raise LookupError(
        f"which function of `{file}`? It has: {listed}"
        if not name
        else f"no function `{name}` in `{file}`; it has: {listed}"
    )
