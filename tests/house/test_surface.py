"""What ``import tessera`` offers and what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.house.source import HOUSE, ROOT, surface

SNAPSHOT = HOUSE / "public_api.txt"
# Nobody who writes `import tessera` has asked for these yet.
LAZY = {"triton", "jax", "sympy", "scipy", "matplotlib", "rich", "IPython", "pytest", "hypothesis"}


def test_public_names_are_those_of_the_snapshot() -> None:
    """Run with ``TESSERA_ACCEPT=1`` to accept a change; the diff of the file is then the review."""
    package = surface()
    if package is None:
        return
    names = sorted(package.__all__)
    assert len(set(names)) == len(names)
    if os.environ.get("TESSERA_ACCEPT") == "1":
        SNAPSHOT.write_text("\n".join(names) + "\n", encoding="utf-8")
    assert names == SNAPSHOT.read_text(encoding="utf-8").split()


def test_public_names_exist() -> None:
    package = surface()
    if package is not None:
        assert [name for name in package.__all__ if not hasattr(package, name)] == []


def _loaded(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after a statement."""
    names = "sorted({m.split('.')[0] for m in sys.modules})"
    code = f"import json, sys\n{statement}\nprint(json.dumps({names}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_loads_only_what_is_needed() -> None:
    if surface() is None:
        return
    assert (_loaded("import tessera") - _loaded("import torch")) & LAZY == set()


def test_importing_starts_no_compiler_and_reads_no_option() -> None:
    if surface() is None:
        return
    code = (
        "import sys\nseen = []\n"
        "sys.addaudithook(lambda event, _: seen.append(event) if event == 'subprocess.Popen' else None)\n"
        "import torch\nbefore = len(seen)\nimport tessera\nassert len(seen) == before, seen"
    )
    broken = {**os.environ, "TESSERA_BACKEND": "no such backend"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=broken, check=True, timeout=120)
