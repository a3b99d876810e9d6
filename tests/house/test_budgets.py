"""Size budgets: growth past them is a decision, written down in budget_allow.toml with its reason."""

from __future__ import annotations

import ast

from tests.house.source import allow_list, functions, label, python_files

FILE_LINES = 500
FUNCTION_LINES = 60
FILES = python_files("tessera", "tests", "examples", "benchmarks", "docs")


def _over_files() -> dict[str, int]:
    sizes = {label(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    return {name: size for name, size in sizes.items() if size > FILE_LINES}


def _over_functions() -> dict[str, int]:
    over = {}
    for path in FILES:
        for name, _, size in functions(ast.parse(path.read_text(encoding="utf-8"))):
            if size > FUNCTION_LINES:
                over[f"{label(path)}:{name}"] = size
    return over


def _compare(over: dict[str, int], allowed: dict[str, str], limit: int) -> list[str]:
    new = {name: size for name, size in over.items() if name not in allowed}
    found = [f"{name}: {size} lines, the budget is {limit}" for name, size in new.items()]
    found += [f"{name}: allowed, but within the budget now" for name in allowed if name not in over]
    found += [f"{name}: allowed without a reason" for name, reason in allowed.items() if len(reason) < 10]
    return found


def test_files_keep_their_budget() -> None:
    wrong = _compare(_over_files(), allow_list("budget_allow.toml")["files"], FILE_LINES)
    assert not wrong, "\n".join(wrong)


def test_functions_keep_their_budget() -> None:
    wrong = _compare(_over_functions(), allow_list("budget_allow.toml")["functions"], FUNCTION_LINES)
    assert not wrong, "\n".join(wrong)


def test_nested_functions_and_methods_are_counted() -> None:
    text = "class A:\n    def f(self):\n        def g():\n            pass\n        return g\n"
    assert sorted(functions(ast.parse(text))) == [("A.f", 2, 4), ("A.f.g", 3, 2)]
