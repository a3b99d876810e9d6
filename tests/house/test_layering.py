"""The rooms and their order: who may import whom, who may load torch, who may read the environment."""

from __future__ import annotations

import ast
import sys

import networkx as nx
import pytest

from tests.house.source import Module, imports, modules

# Rank of each room. A room imports lower ranks and itself, never a sibling of its own rank.
RANKS = {
    "diag": 0,
    "config": 0,
    "ir": 1,
    "frontend": 2,
    "passes": 2,
    "schedule": 3,
    "backends": 4,
    "runtime": 5,
    "driver": 6,
    "functional": 6,
    "ops": 7,
    "optim": 7,
    "nn": 7,
    "stable": 7,
    "quantization": 7,
    "dist": 7,
    "interop": 7,
    "cli": 7,
}
# What a room may import when "all lower ranks" is too much.
ONLY = {
    "diag": set[str](),
    "config": {"diag"},  # a malformed variable is reported like every other fault
    "frontend": {"diag", "config", "ir"},
    "passes": {"diag", "config", "ir"},
    "schedule": {"diag", "config", "ir"},
    "backends": {"diag", "config", "ir", "schedule"},
    "runtime": {"diag", "config", "backends.base"},
}
# The library (rank 7) is written against the public names; the command line also reads IR and passes.
LIBRARY_EXTRA = {"cli": {"ir", "passes", "diag", "config"}}
FRAMEWORK_FREE = {"diag", "config", "ir", "frontend", "passes", "schedule"}
FRAMEWORKS = {"torch", "triton"}

MODULES = modules()
KNOWN = frozenset(m.name for m in MODULES)


def _room(name: str) -> str:
    """The room of a dotted module name; the package's own top is the public surface, ``""``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def _allowed(room: str, target: str) -> bool:
    """Whether a module of ``room`` may import the module ``target`` of this package."""
    other = _room(target)
    if other == room:
        return True
    if room in {"", "__main__"}:
        return True  # the public surface names what it exports, from anywhere
    inner = target.removeprefix("tessera.")
    if room in ONLY:
        return any(inner == allowed or inner.startswith(f"{allowed}.") for allowed in ONLY[room])
    if RANKS[room] == 7:
        return other == "" or other in LIBRARY_EXTRA.get(room, set()) or _public(target)
    return other != "" and RANKS[other] < RANKS[room]


def _public(target: str) -> bool:
    """A library room may use another's public names, which stand at its top: ``tessera.nn``."""
    return target.count(".") == 1 and RANKS.get(_room(target)) == 7


def _ids(module: Module) -> str:
    return module.name


@pytest.mark.parametrize("module", MODULES, ids=_ids)
def test_every_module_lies_in_a_known_room(module: Module) -> None:
    assert _room(module.name) in {*RANKS, "", "__main__"}, f"{module.label} lies in no room of the table"


@pytest.mark.parametrize("module", MODULES, ids=_ids)
def test_imports_go_down(module: Module) -> None:
    room = _room(module.name)
    wrong = [
        f"{module.label}:{found.line} imports {found.target}"
        for found in imports(module, KNOWN)
        if found.target.split(".")[0] == "tessera" and not _allowed(room, found.target)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [m for m in MODULES if _room(m.name) in FRAMEWORK_FREE], ids=_ids)
def test_the_core_loads_no_framework(module: Module) -> None:
    wrong = [
        f"{module.label}:{found.line} imports {found.target}"
        for found in imports(module, KNOWN)
        if found.target.split(".")[0] in FRAMEWORKS and not found.typing_only
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [m for m in MODULES if _room(m.name) in {"diag", "config"}], ids=_ids)
def test_rank_zero_needs_only_the_standard_library(module: Module) -> None:
    wrong = [
        f"{module.label}:{found.line} imports {found.target}"
        for found in imports(module, KNOWN)
        if found.target.split(".")[0] not in {*sys.stdlib_module_names, "tessera"}
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", MODULES, ids=_ids)
def test_only_config_reads_the_environment(module: Module) -> None:
    if module.name == "tessera.config":
        return
    wrong = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            if node.attr in {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}:
                wrong.append(f"{module.label}:{node.lineno} uses os.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            names = {alias.name for alias in node.names} & {"environ", "environb", "getenv"}
            wrong += [f"{module.label}:{node.lineno} imports os.{name}" for name in sorted(names)]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_import_cycles() -> None:
    """Imports inside functions count; what only a type checker reads does not run."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for module in MODULES:
        for found in imports(module, KNOWN):
            if found.target in KNOWN and found.target != module.name and not found.typing_only:
                graph.add_edge(module.name, found.target)
    knots = [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]
    assert not knots, "\n".join("import each other: " + ", ".join(knot) for knot in knots)


def test_the_table_is_strict() -> None:
    """The rules themselves: a few edges that must be refused and a few that must be allowed."""
    refused = [
        ("ir", "tessera.passes.fuse"),
        ("frontend", "tessera.passes"),
        ("runtime", "tessera.backends.c.emit"),
        ("runtime", "tessera.ir"),
        ("backends", "tessera.runtime.memory"),
        ("driver", "tessera.cli"),
        ("nn", "tessera.ir.graph"),
        ("diag", "tessera.config"),
        ("driver", "tessera"),
    ]
    allowed = [
        ("runtime", "tessera.backends.base"),
        ("driver", "tessera.runtime.memory"),
        ("cli", "tessera.passes.pipeline"),
        ("nn", "tessera"),
        ("backends", "tessera.schedule.plan"),
    ]
    assert [edge for edge in refused if _allowed(*edge)] == []
    assert [edge for edge in allowed if not _allowed(*edge)] == []
