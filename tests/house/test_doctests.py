"""The examples in docstrings and in op records are run."""

from __future__ import annotations

import doctest
import importlib

import pytest

from docs._gen.pages import find
from tests.house.source import Module, modules, surface

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = [module for module in modules() if ">>>" in module.text]


@pytest.mark.parametrize("module", WITH_EXAMPLES, ids=lambda module: module.name)
def test_docstrings(module: Module) -> None:
    if surface() is None and find(module.name) is None:
        return
    result = doctest.testmod(importlib.import_module(module.name), optionflags=FLAGS)
    assert result.failed == 0


def test_op_examples() -> None:
    package = surface()
    records = getattr(find("tessera.ir.dialects"), "OPS", {}) if package is not None else {}
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    names = {"tessera": package, "torch": importlib.import_module("torch")} if records else {}
    for name, record in records.items():
        if getattr(record, "example", ""):
            runner.run(doctest.DocTestParser().get_doctest(record.example, dict(names), name, None, 0))
    assert runner.summarize().failed == 0
