"""Names and texts that would be something else elsewhere, in calls and on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tessera
from tessera import ParseError, ResourceError, ShapeError, Tensor, TesseraError
from tessera.backends.base import Target
from tessera.backends.triton.emit import emit
from tessera.cli import main
from tests.faults.harness import entry, fresh, trace_opens
from tests.runtime import forking

#: Names that mean something in C, in Python, in Triton or in generated code.
MEANINGFUL = ["register", "restrict", "inf", "i0", "L", "vf32", "tl", "b0", "n0", "nan", "main", "tessera_0", "__asm__"]
#: Names that are code, or look like others.
CODE = [
    "__import__('os').system('x')", 'a;system("id")', "N*/}", "N\n#include <x>", "%s", "{0}", "N\0", "N M", "ﬁ",
    "N\u202eM", "\u039d", "n" * 65,
]  # fmt: skip


@pytest.mark.parametrize("name", MEANINGFUL)
def test_dims_with_meaningful_names(name: str) -> None:
    def f(x: Any) -> Any:
        return torch.tanh(x) * 2 + x.sum(dim=-1, keepdim=True)

    f.__annotations__ = {"x": Tensor[name, "marked_dim"], "return": Tensor[name, "marked_dim"]}
    made = tessera.function(f)
    x = torch.randn(5, 7)
    assert torch.allclose(made(x), made.eager(x), atol=1e-6)
    assert made.cache_info().eager == 0


@pytest.mark.parametrize("name", CODE)
def test_dims_that_are_code(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TesseraError):
        Tensor[name, "D"]
    assert list(tmp_path.iterdir()) == []


def test_names_stay_out_of_generated_text() -> None:
    @tessera.function
    def zz_function(zz_argument: Tensor["zz_rows", "zz_dim"], zz_scalar: float) -> Tensor["zz_rows", "zz_dim"]:
        zz_value = torch.exp(zz_argument) * zz_scalar
        return zz_value / zz_value.sum(dim=-1, keepdim=True)

    variant = zz_function.resolve(torch.randn(3, 4), 0.5).variant
    assert "zz_" not in variant.native.text
    for kernel in variant.program.kernels:
        for target in (Target("cuda", "90"), Target("hip", "gfx942")):
            assert "zz_" not in emit(kernel, target).text


@pytest.mark.parametrize("name", ["../../x", "$(touch x)", "-fplugin=x.so", "a\nb", 'q"', "%n", "x" * 5000])
def test_functions_with_names_that_are_paths_or_options(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * 3 + 1

    f.__name__ = f.__qualname__ = name
    with fresh(tmp_path / "cache"):
        made = tessera.function(f)
        assert torch.equal(made(torch.ones(4)), torch.full((4,), 4.0))
        assert made.cache_info().eager == 0
    assert len(entry(tmp_path / "cache").stem) == 64
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_strings_given_as_arguments_stay_out() -> None:
    @tessera.function
    def pick(x: Tensor["N"], mode: str) -> Tensor["N"]:
        return x + 1 if mode.startswith("up") else x - 1

    wild = 'up"; system("id"); // \n #include'
    assert torch.equal(pick(torch.ones(3), wild), torch.full((3,), 2.0))
    assert "system" not in pick.resolve(torch.ones(3), wild).variant.native.text


def test_sizes_that_no_memory_has() -> None:
    @tessera.function
    def table(x: Tensor["N"], y: Tensor["M"]) -> Tensor["N", "M"]:
        return x[:, None] * y[None, :]

    wide = torch.ones(1).expand(1 << 40)
    with pytest.raises((ResourceError, RuntimeError)):
        table(wide, wide)
    for text in ("f32[4611686018427387904, 4611686018427387904]", "f32[-1]", "f32[9223372036854775808]"):
        with pytest.raises(TesseraError):
            tessera.parse(f"fn f(x: {text}) -> {text} {{\n  return x, x\n}}")
    with pytest.raises((ShapeError, ResourceError)):

        @tessera.function
        def negative(x: Tensor["N"]) -> Tensor["N"]:
            return x.reshape(-2)

        negative(torch.ones(3))


IR = """fn f(x: f32[N]) -> f32[N] {
  %a = add(x, 1.0) : f32[N]
  return %a
}
"""


def test_reading_ir_compiles_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.tsr").write_text(IR)
    log = tmp_path / "log"

    def child() -> None:
        trace_opens(log)
        sys.addaudithook(_no_processes)
        with fresh(tmp_path / "cache"):
            assert main(["opt", str(tmp_path / "f.tsr"), "-p", "canonicalize,fuse"]) == 0

    assert forking.run(child, limit=60) == 0
    assert not (tmp_path / "cache").exists()
    assert not [line for line in log.read_text().splitlines() if line.endswith((".so", ".c", ".artifact"))]


def _no_processes(event: str, args: tuple[object, ...]) -> None:
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "ctypes.dlopen"):
        os.abort()


@pytest.mark.parametrize(
    "line",
    [
        '%a = c("system(1)") : f32[N]',
        '%a = extern("libevil.so", x) : f32[N]',
        '%a = library_call(x, target="os.system", arguments=(), keywords=(), results=()) : f32[N]',
        '%a = library_call(x, target="torch.load", arguments=(("operand", 0)), keywords=(), results=()) : f32[N]',
        '%a = library_call(x, target="torch.Tensor.__reduce__", arguments=(), keywords=(), results=()) : f32[N]',
    ],
)
def test_ir_names_no_code(line: str, tmp_path: Path) -> None:
    text = IR.replace("%a = add(x, 1.0) : f32[N]", line)
    with pytest.raises(TesseraError):
        tessera.parse(text)
    (tmp_path / "f.tsr").write_text(text)
    assert main(["opt", str(tmp_path / "f.tsr")]) != 0


def test_errors_have_no_control_characters(tmp_path: Path) -> None:
    with pytest.raises(ParseError) as refused:
        tessera.parse("fn f(x: f32[N]) -> f32[N] {\n  \x1b[2J\x1b]0;owned\x07 \u202e\n}")
    assert not {"\x1b", "\x07", "\u202e"} & set(str(refused.value))


def test_a_malformed_option_is_reported_and_not_used(tmp_path: Path) -> None:
    code = (
        "import tessera, torch, warnings\nfrom tessera import Tensor\n"
        "@tessera.function\ndef f(x: Tensor['N']) -> Tensor['N']:\n    return x + 1\n"
        "with warnings.catch_warnings(record=True) as caught:\n    y = f(torch.ones(2))\n"
        "(one,) = caught\nprint(one.message.code, y.tolist())\n"
    )
    (tmp_path / "main.py").write_text(code)
    environment = {**os.environ, "TESSERA_CFLAGS_OPT": "1;x"}
    command = [sys.executable, str(tmp_path / "main.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["TSR0609", "[2.0,", "2.0]"], done.stderr
