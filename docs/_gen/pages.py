"""Pages of the documentation that are made from values of the package, so that they cannot go stale.

Each function returns ``{path below docs/: Markdown text}``. A part of the package that does not exist gives a
page that says so; ``tests/house/test_docs.py`` allows that only while the package has no public surface.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MISSING = "This part of the package is not there yet.\n"

KINDS = {
    "map": "One number in, one number out, at every point; operands broadcast.",
    "reduce": "A fold over some axes.",
    "scan": "A fold that keeps every prefix.",
    "contract": "A sum of products over named axes.",
    "view": "Every element of the result is one element of an operand, chosen by its position.",
    "index": "As a view, but the position depends on integer data.",
    "create": "A function of the position alone.",
    "random": "A function of the position and of a seed.",
    "control": "Branches and loops over tensors.",
    "collective": "Communication between the members of a mesh.",
    "extern": "A library call on whole tensors.",
    "composite": "Written in terms of other operations; never appears in the IR under its own name.",
    "region": "A group of operations that becomes one kernel.",
    "tile": "Loads, stores and loops of kernels.",
}


def find(name: str) -> ModuleType | None:
    """The module of that name, or None when there is no such module."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        if importlib.util.find_spec(".".join(parts[:end])) is None:
            return None
    try:
        return importlib.import_module(name)
    except ImportError as error:
        # Half a package cannot be documented; with its driver in place it must be whole.
        if importlib.util.find_spec("tessera.driver") is None and (error.name or "").startswith("tessera"):
            return None
        raise


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars and line ends inside cells are escaped."""
    heads = list(head)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


# -- operations -----------------------------------------------------------------------------------


def op_pages() -> dict[str, str]:
    """A page for every kind of operation and an index, from the op records."""
    module = find("tessera.ir.dialects")
    records: Mapping[str, Any] = getattr(module, "OPS", {}) if module is not None else {}
    if not records:
        return {"ops/index.md": f"# Operations\n\n{MISSING}"}
    kinds: dict[str, list[Any]] = {}
    for name in sorted(records):
        kinds.setdefault(_kind(records[name]), []).append(records[name])
    known = [kind for kind in KINDS if kind in kinds] + sorted(set(kinds) - set(KINDS))
    pages = {f"ops/{kind}.md": _kind_page(kind, kinds[kind]) for kind in known}
    text = "# Operations\n\nEvery operation is one record; this reference is made from the records.\n\n"
    text += table(
        ["kind", "meaning", "operations"],
        (
            [f"[{kind}]({kind}.md)", KINDS.get(kind, ""), ", ".join(f"`{r.name}`" for r in kinds[kind])]
            for kind in known
        ),
    )
    return {"ops/index.md": text, **pages}


def _kind(record: Any) -> str:
    return str(getattr(record.kind, "value", record.kind))


def _kind_page(kind: str, records: list[Any]) -> str:
    parts = [f"# {kind.capitalize()} operations\n", KINDS.get(kind, "") + "\n"]
    parts += [_op_section(record) for record in records]
    return "\n".join(parts)


def _op_section(record: Any) -> str:
    call = f"{record.name}({record.signature})"
    lines = [f"## `{record.name}`", "", record.doc, "", "```text", call, "```", ""]
    methods = [f"`x.{name}`" for name in getattr(record, "methods", ())]
    if methods:
        lines += [f"Methods: {', '.join(methods)}", ""]
    if record.torch:
        lines += [f"Torch: {', '.join(f'`{name}`' for name in record.torch)}", ""]
    if getattr(record, "example", ""):
        lines += ["```pycon", record.example.strip(), "```", ""]
    return "\n".join(lines)


# -- diagnostics ----------------------------------------------------------------------------------


def code_pages() -> dict[str, str]:
    """A page for every diagnostic code and an index, from the pages the command line shows."""
    module = find("tessera.diag.codes")
    if module is None:
        return {"codes/index.md": f"# Diagnostic codes\n\n{MISSING}"}
    pages = {}
    for code in module.CODES:
        pages[f"codes/{code}.md"] = _code_page(module, code)
    text = "# Diagnostic codes\n\n`python -m tessera explain CODE` prints the same pages in a terminal.\n\n"
    rows = (
        [f"[{info.code}]({info.code}.md)", f"`{info.error.__name__}`", info.title] for info in module.CODES.values()
    )
    return {"codes/index.md": text + table(["code", "raised as", "fault"], rows), **pages}


def _code_page(module: ModuleType, code: str) -> str:
    heading = f"# {code}: {module.CODES[code].title}\n\n"
    try:
        sections = module.read_page(code).sections
    except FileNotFoundError:
        return heading + MISSING
    body = "".join(f"## {head}\n{text}\n" if head else text for head, text in sections.items())
    return body if body.lstrip().startswith("# ") else heading + body


# -- passes and options ---------------------------------------------------------------------------


def pass_pages() -> dict[str, str]:
    """The pipeline table with its reasons, and what each pass says of itself."""
    module = find("tessera.passes.pipeline")
    text = "# The pipeline\n\n"
    if module is None:
        return {"reference/pipeline.md": text + MISSING}
    rows = list(module.PIPELINE)
    text += "One table decides the order. The verifier runs before the first pass and after each.\n\n"
    names = [f"[`{row.step.name}`](#{row.step.name})" for row in rows]
    cells = ([str(at), name, row.reason] for at, (name, row) in enumerate(zip(names, rows, strict=True), 1))
    text += table(["", "pass", "why here"], cells)
    for row in rows:
        doc = inspect.getdoc(type(row.step)) or ""
        text += f"\n## {row.step.name}\n\n{_prose(doc)}\n"
    return {"reference/pipeline.md": text}


def option_pages() -> dict[str, str]:
    """The table of options, from ``tessera.config``."""
    module = find("tessera.config")
    text = "# Options\n\n"
    if module is None:
        return {"reference/options.md": text + MISSING}
    text += "Each option is one environment variable, read when it is first needed.\n\n"
    rows = ([f"`{r.variable}`", r.meaning, r.allowed, r.default] for r in module.rows())
    return {"reference/options.md": text + table(["variable", "meaning", "allowed", "default"], rows)}


def _prose(doc: str) -> str:
    """A docstring as Markdown: doctest examples become fenced blocks."""
    lines: list[str] = []
    inside = False
    for line in doc.splitlines():
        starts = line.lstrip().startswith(">>>")
        if starts and not inside:
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)


# -- API ------------------------------------------------------------------------------------------


def api_pages() -> dict[str, str]:
    """One page per public name of ``tessera``, rendered by mkdocstrings, and an index by sort."""
    module = find("tessera")
    names = sorted(getattr(module, "__all__", ()))
    text = "# Public names\n\n"
    if not names:
        return {"reference/api.md": text + MISSING}
    text += "What `import tessera` offers. Operations have [a reference of their own](../ops/index.md).\n"
    records = getattr(find("tessera.ir.dialects"), "OPS", {})
    shown = [name for name in names if name not in records and _documented(getattr(module, name, None))]
    rest = [name for name in names if name not in records and name not in shown]
    text += _sections(module, shown)
    if rest:
        text += "\n## Values\n\n" + ", ".join(f"`{name}`" for name in rest) + "\n"
    return {"reference/api.md": text}


def tile_pages() -> dict[str, str]:
    """The operations of kernels, from their table."""
    module = find("tessera.frontend.kernel.table")
    text = "# Operations of kernels\n\n"
    if module is None:
        return {"reference/tile.md": text + MISSING}
    text += "What `tile` has. [Writing kernels](../kernels.md) says how they are used.\n\n"
    rows = [[f"`{op!r}`", op.doc] for _, op in sorted(module.TILE_TABLE.items())]
    text += table(["call", "meaning"], rows) + "\n`tile.warp` has "
    text += (
        ", ".join(f"`{name}`" for name in module.WARP_TABLE) + ": the same, done within a warp where there are warps.\n"
    )
    return {"reference/tile.md": text}


def layer_pages() -> dict[str, str]:
    """The names of ``tessera.nn``, as `api_pages` has those of ``tessera``."""
    module = find("tessera.nn")
    names = sorted(getattr(module, "__all__", ()))
    shown = [name for name in names if _documented(getattr(module, name))]
    text = "# Layers\n\n"
    if not shown:
        return {"reference/nn.md": text + MISSING}
    rest = ", ".join(f"`{name}`" for name in names if name not in shown)
    text += f"What `tessera.nn` offers beside torch's own {rest}. [Modules](../modules.md) says how they work.\n"
    return {"reference/nn.md": text + _sections(module, shown)}


def _sections(module: object, names: Iterable[str]) -> str:
    """A section for each name, which mkdocstrings fills."""
    values = ((name, getattr(module, name)) for name in names)
    return "".join(f"\n## {name}\n\n::: {x.__module__}.{x.__qualname__}\n" for name, x in values)


def _documented(value: object) -> bool:
    source = str(getattr(value, "__module__", "") or "")
    named = inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))  # type: ignore[arg-type]
    return named and source.startswith("tessera") and find(source) is not None


# -- benchmarks -----------------------------------------------------------------------------------


def bench_pages() -> dict[str, str]:
    """The results that are kept in ``benchmarks/results/``, one section a file."""
    text = "# Results\n\n"
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    if not files:
        return {"reference/results.md": text + "No results are kept in this tree. `make bench` makes some.\n"}
    for file in files:
        data = json.loads(file.read_text(encoding="utf-8"))
        text += f"## {file.stem}\n\n" + _result(data) + "\n"
    return {"reference/results.md": text}


def _result(data: object) -> str:
    """Plain entries as a list, lists of equal objects as tables, whatever the file is about."""
    if not isinstance(data, dict):
        return _result({"rows": data})
    plain = [f"- {key}: {value}" for key, value in data.items() if not isinstance(value, list | dict)]
    text = "\n".join(plain) + "\n\n"
    for key, value in data.items():
        if isinstance(value, dict):
            text += f"### {key}\n\n{_result(value)}"
        elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            head = list(dict.fromkeys(column for row in value for column in row))
            text += f"### {key}\n\n" + table(head, ([_cell(r.get(c)) for c in head] for r in value)) + "\n"
    return text


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def all_pages() -> dict[str, str]:
    """Every generated page by its path below ``docs/``."""
    makers = (op_pages, code_pages, pass_pages, option_pages, api_pages, tile_pages, layer_pages, bench_pages)
    return {path: text for make in makers for path, text in make().items()}
