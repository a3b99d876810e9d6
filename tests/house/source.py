"""The source tree as data for the house tests: modules, their imports, their functions."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tessera"
HOUSE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Module:
    """One Python file of the package."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def label(self) -> str:
        return label(self.path)


@dataclass(frozen=True)
class Import:
    """One imported module name and the line that imports it."""

    target: str
    line: int
    typing_only: bool


@lru_cache(maxsize=1)
def modules() -> tuple[Module, ...]:
    """Every module under ``tessera/``, sorted by name."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found.append(Module(name, path, text, ast.parse(text, filename=str(path))))
    return tuple(found)


def imports(module: Module, known: frozenset[str]) -> Iterator[Import]:
    """All imports of a module, those inside functions and under ``TYPE_CHECKING`` included.

    ``from tessera.ir import graph`` counts as ``tessera.ir.graph`` where that is a module, because then the
    submodule is what runs; otherwise it counts as ``tessera.ir``.
    """
    typing_lines = _typing_only_lines(module.tree)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, node.lineno in typing_lines)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in known else base, node.lineno, node.lineno in typing_lines)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    drop = node.level - 1 if module.is_package else node.level
    base = parts[: len(parts) - drop]
    return ".".join(base + ([node.module] if node.module else []))


def _typing_only_lines(tree: ast.Module) -> frozenset[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                lines.update(range(child.lineno, (child.end_lineno or child.lineno) + 1))
    return frozenset(lines)


def functions(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """(qualified name, first line, number of lines) of every function, from its ``def`` to its end."""
    pending: list[tuple[ast.AST, str]] = [(tree, "")]
    while pending:
        node, prefix = pending.pop()
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{prefix}{child.name}."
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield inner[:-1], child.lineno, (child.end_lineno or child.lineno) - child.lineno + 1
            pending.append((child, inner))


def allow_list(name: str) -> dict[str, dict[str, str]]:
    """A TOML file of exceptions: a table per rule, ``"<what>" = "<reason>"`` per line."""
    return tomllib.loads((HOUSE / name).read_text(encoding="utf-8"))


def python_files(*tops: str) -> tuple[Path, ...]:
    """Python files below the given top folders of the repository, sorted."""
    found: list[Path] = []
    for top in tops:
        found += sorted(path for path in (ROOT / top).rglob("*.py") if path.is_file())
    return tuple(found)


def label(path: Path) -> str:
    """A path as it is written in messages and allow-lists: from the root, with forward slashes."""
    return path.relative_to(ROOT).as_posix()


def text_files() -> Iterator[Path]:
    """Every text file that belongs to the repository (links and environments left out)."""
    for top in ("tessera", "tests", "examples", "benchmarks", "docs", ".ci"):
        yield from (p for p in sorted((ROOT / top).rglob("*")) if p.is_file() and p.suffix in _TEXT)
    for path in sorted(ROOT.iterdir()):
        if path.is_file() and (path.suffix in _TEXT or path.name == ".gitignore"):
            yield path


def surface() -> ModuleType | None:
    """The package, or None while its public surface does not exist."""
    if importlib.util.find_spec("tessera.driver") is None:
        return None
    module = importlib.import_module("tessera")
    return module if hasattr(module, "function") else None


_TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".json", ".lark", ".c", ".h", ".tsr", ".cfg", ""}
