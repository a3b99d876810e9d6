"""What may not stand in the tree: calls that run data as code, and names of machines and package hosts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.house.source import allow_list, label, python_files, text_files

FORBIDDEN_NAMES = {"eval", "exec", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("os", "system"), ("os", "popen"), ("yaml", "load")}
# Put together so that this file does not name what it looks for.
PLACES = re.compile(
    "|".join(
        [
            r"(?<![\w.])/" + r"work/",
            r"(?<![\w.])/" + r"root/",
            r"(?<![\w.])/" + r"home/\w+/",
            "pypi" + r"\.org",
            "python" + "hosted",
            "registry" + r"\.npmjs",
        ]
    )
)


def dangerous(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) for every call or import in ``tree`` that could run data as code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in FORBIDDEN_MODULES:
                    yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield node.lineno, (node.module or "").split(".")[0]
        elif isinstance(node, ast.Call):
            yield from _dangerous_call(node)


def _dangerous_call(node: ast.Call) -> Iterator[tuple[int, str]]:
    target = node.func
    if isinstance(target, ast.Name) and target.id in FORBIDDEN_NAMES:
        yield node.lineno, target.id
    named = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)
    owner = target.value.id if named else ""
    if isinstance(target, ast.Attribute) and (owner, target.attr) in FORBIDDEN_ATTRIBUTES:
        yield node.lineno, f"{owner}.{target.attr}"
    for keyword in node.keywords:
        harmless = isinstance(keyword.value, ast.Constant) and not keyword.value.value
        if keyword.arg == "shell" and not harmless:
            yield node.lineno, "shell=True"


def test_nothing_runs_data_as_code() -> None:
    allowed = allow_list("gate_allow.toml")["calls"]
    used = set()
    wrong = []
    for path in python_files("tessera", "examples", "benchmarks", "docs"):
        for line, what in dangerous(ast.parse(path.read_text(encoding="utf-8"))):
            key = f"{label(path)}:{what}"
            used.add(key)
            if key not in allowed:
                wrong.append(f"{label(path)}:{line}: {what}")
    wrong += [f"{key}: allowed, but not used" for key in allowed if key not in used]
    wrong += [f"{key}: allowed without a reason" for key, reason in allowed.items() if len(reason) < 10]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("eval('1')", "eval"),
        ("def f():\n    exec(x)", "exec"),
        ("import pickle as p", "pickle"),
        ("def f():\n    from marshal import loads", "marshal"),
        ("torch.load(path)", "torch.load"),
        ("run('x', shell=True)", "shell=True"),
        ("run('x', shell=flag)", "shell=True"),
        ("os.system('x')", "os.system"),
    ],
)
def test_the_gate_sees(text: str, what: str) -> None:
    assert [found for _, found in dangerous(ast.parse(text))] == [what]


@pytest.mark.parametrize("text", ["model.eval()", "run('x', shell=False)", "re.compile('x')", "json.load(f)"])
def test_the_gate_lets_through(text: str) -> None:
    assert not list(dangerous(ast.parse(text)))


def test_no_machine_and_no_package_host_is_named() -> None:
    wrong = []
    for path in text_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if found := PLACES.search(line):
                wrong.append(f"{label(path)}:{number}: {found.group()}")
    assert not wrong, "\n".join(wrong)


def test_every_todo_is_refused() -> None:
    """A marker in the code is read by nobody again: finish the work, or write the limit into the docs."""
    marker = re.compile("#.*\\b(TO" + "DO|FIX" + "ME|XX" + "X)\\b")
    wrong = [
        f"{label(path)}:{number}"
        for path in python_files("tessera", "tests", "examples", "benchmarks", "docs")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marker.search(line)
    ]
    assert not wrong, "\n".join(wrong)
