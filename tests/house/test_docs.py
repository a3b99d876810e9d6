"""The documentation is whole: nothing generated is empty, nothing public is undocumented, no link is dead."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from docs._gen import pages
from tests.house.source import ROOT, label, modules, surface

PROSE = sorted(path for path in (ROOT / "docs").rglob("*.md")) + sorted(ROOT.glob("*.md"))
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"\bTSR\d{4}\b")


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return pages.all_pages()


def _slug(heading: str) -> str:
    kept = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"[\s]+", "-", kept)


def _anchors(text: str) -> set[str]:
    return {_slug(line.lstrip("#")) for line in FENCED.sub("", text).splitlines() if line.startswith("#")}


@pytest.mark.parametrize("path", PROSE, ids=label)
def test_links_lead_somewhere(path: Path, generated: dict[str, str]) -> None:
    wrong = []
    for found in LINK.finditer(FENCED.sub("", path.read_text(encoding="utf-8"))):
        target, _, anchor = found["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (path.parent / target).resolve() if target else path
        inside = file.relative_to(ROOT / "docs").as_posix() if file.is_relative_to(ROOT / "docs") else ""
        text = generated.get(inside)
        if text is None and file.suffix == ".md" and file.is_file():
            text = file.read_text(encoding="utf-8")
        dead = not file.exists() if text is None else bool(anchor) and anchor not in _anchors(text)
        if dead:
            wrong.append(found["target"])
    assert not wrong, f"{label(path)}: {wrong}"


def test_every_page_is_in_the_table_of_contents(generated: dict[str, str]) -> None:
    listed = set(re.findall(r":\s*([\w/-]+\.md)\s*$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert written <= listed
    assert listed <= written | set(generated)


def test_no_generated_page_is_empty(generated: dict[str, str]) -> None:
    if surface() is None:
        return
    empty = [path for path, text in generated.items() if pages.MISSING in text]
    assert not empty


def test_every_op_has_a_section(generated: dict[str, str]) -> None:
    module = pages.find("tessera.ir.dialects")
    for name, record in getattr(module, "OPS", {}).items():
        page = generated[f"ops/{getattr(record.kind, 'value', record.kind)}.md"]
        assert f"## `{name}`" in page
        assert record.doc and record.doc[0].isupper(), f"{name}: a doc line is a sentence"
        assert record.doc.rstrip().endswith("."), f"{name}: a doc line ends with a stop"


def test_every_pass_says_what_it_does_and_why_it_stands_there() -> None:
    module = pages.find("tessera.passes.pipeline") if surface() is not None else None
    for row in getattr(module, "PIPELINE", ()):
        doc = inspect.getdoc(type(row.step)) or ""
        assert len(doc) > 20 and not doc.startswith(type(row.step).__name__), row.step.name
        assert len(row.reason) > 20, row.step.name


def test_every_public_name_is_documented() -> None:
    package = surface()
    names = getattr(package, "__all__", ())
    bare = []
    for name in names:
        value = getattr(package, name)
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value):
            bare.append(name)
    assert not bare


def test_every_public_module_class_and_function_has_a_docstring() -> None:
    """Modules say what they hold; a public class or function at the top of one says what it is for."""
    bare = []
    for module in modules():
        if module.text.strip() and ast.get_docstring(module.tree) is None:
            bare.append(module.label)
        for node in module.tree.body:
            is_public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if is_public and ast.get_docstring(node) is None and not _overload(node):
                bare.append(f"{module.label}:{node.lineno}: {node.name}")
    assert not bare, "\n".join(bare)


def _overload(node: object) -> bool:
    return any("overload" in str(getattr(d, "id", "")) for d in getattr(node, "decorator_list", ()))


def test_codes_and_their_uses_agree() -> None:
    """A code that is raised is in the table; a code in the table is raised somewhere."""
    module = pages.find("tessera.diag.codes")
    if module is None or surface() is None:
        return
    table = Path(module.__file__ or "")
    used = {code for m in modules() if m.path != table for code in CODE.findall(m.text)}
    assert used - set(module.CODES) == set()
    assert set(module.CODES) - used == set()


def test_every_option_is_in_its_page(generated: dict[str, str]) -> None:
    config = pages.find("tessera.config")
    for option in getattr(config, "OPTIONS", ()):
        assert f"`{option.variable}`" in generated["reference/options.md"]
