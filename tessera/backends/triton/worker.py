"""A process of its own that compiles Triton text. It is run as a script, and imports nothing but Triton.

One JSON object a line comes in on standard input and one goes out on standard output. A compiler that
aborts takes this process with it and nothing else; interpreting and compiling never meet in one process.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def load_module(text: str, folder: Path, number: int) -> ModuleType:
    """Generated text as a module: a file in a private folder, since Triton reads the source of its functions
    back.
    """
    path = folder / f"kernel_{number}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ast_source(function: Any, signature: Mapping[str, str], constants: Mapping[str, int]) -> ASTSource:
    """What ``triton.compile`` takes. Types are as in ``Bound.signature``; constants replace arguments by
    numbers.
    """
    types: dict[str, str] = {}
    values: dict[tuple[int, ...], int] = {}
    hints: dict[tuple[int, ...], list[list[object]]] = {}
    for n, name in enumerate(function.arg_names):
        if name in constants:
            types[name], values[(n,)] = "constexpr", constants[name]
            continue
        kind, _, hint = signature[name].partition(":")
        types[name] = kind
        if hint:
            hints[(n,)] = [["tt.divisibility", int(hint)]]
    return ASTSource(fn=function, signature=types, constexprs=values, attrs=hints)


def gpu_target(name: str) -> GPUTarget:
    """Triton's target for a short name such as ``cuda:90``."""
    kind, _, arch = name.partition(":")
    return GPUTarget("cuda", int(arch), 32) if kind == "cuda" else GPUTarget("hip", arch, 64)


def options(warps: int, checked: bool, stages: int = 0) -> dict[str, object]:
    """How kernels are compiled. Definitions rely on every operation rounding by itself, so nothing is
    contracted.

    ``checked`` keeps the assertions on indices read from memory, but not those on integer overflow, which
    wraps. ``stages`` is how many steps of a loop have their loads under way; 0 leaves that to the compiler.
    """
    given = {"num_stages": stages} if stages else {}
    return {"num_warps": warps, "enable_fp_fusion": False, "debug": checked, "sanitize_overflow": False, **given}


def compile_one(module: ModuleType, job: Mapping[str, Any], target: str, folder: Path) -> dict[str, Any]:
    """One function to binary code: its stages, its binary, and what the tools say about it."""
    source = ast_source(getattr(module, job["function"]), job["signature"], job["constants"])
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        made = triton.compile(source, target=gpu_target(target), options=options(*job["options"]))
    stages = {name: text for name, text in made.asm.items() if isinstance(text, str)}
    usage = ""
    if target.startswith("cuda"):
        path = folder / "code.cubin"
        path.write_bytes(made.kernel)
        usage, sass = (_cuobjdump(flag, path) for flag in ("--dump-resource-usage", "--dump-sass"))
        if sass:
            stages["sass"] = sass
    return {
        "name": str(made.metadata.name),
        "stages": stages,
        "shared": int(made.metadata.shared),
        "usage": usage,
        "log": log.getvalue(),
        "binary": base64.b64encode(made.kernel).decode(),
    }


def _cuobjdump(flag: str, path: Path) -> str:
    """What the tool in the wheel says; empty where the wheel has none."""
    try:
        tool = knobs.nvidia.cuobjdump.path
        return subprocess.run([tool, flag, str(path)], capture_output=True, text=True, check=True).stdout
    except (AttributeError, RuntimeError, OSError, subprocess.CalledProcessError):
        return ""


def answer(request: Mapping[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """The reply to one request; a job that fails has an ``error`` in place of its result."""
    done: list[dict[str, Any]] = []
    try:
        module = load_module(request["text"], folder, number)
    except Exception as e:
        return {"error": _said(e)}
    for job in request["jobs"]:
        try:
            done.append(compile_one(module, job, request["target"], folder))
        except Exception as e:
            done.append({"error": _said(e)})
    return {"version": triton.__version__, "results": done}


def _said(e: Exception) -> str:
    return f"{type(e).__name__}: {e}"[:4000]


def serve(read: Callable[[], str], write: Callable[[str], object]) -> None:
    """Answer requests until there are no more."""
    with tempfile.TemporaryDirectory(prefix="tessera-triton-") as made:
        folder = Path(made)
        knobs.cache.dir = str(folder / "cache")
        knobs.compilation.always_compile = True
        knobs.compilation.disable_line_info = True
        knobs.nvidia.dump_ptxas_log = True
        number = 0
        while line := read():
            number += 1
            write(json.dumps(answer(json.loads(line), folder, number)) + "\n")


def main() -> None:
    """Answer one JSON request a line until standard input ends."""
    # What compilers print must not land between the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def write(text: str) -> None:
        replies.write(text)
        replies.flush()

    serve(sys.stdin.readline, write)


if __name__ == "__main__":
    main()
