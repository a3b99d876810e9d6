"""The command line on files as users have them: packages, scripts with neighbours, mistakes in names and options."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tessera.cli import main
from tessera.cli.files import module_of

HEAD = "import tessera\nfrom tessera import Tensor\n"
GOOD = HEAD + (
    "@tessera.function\n"
    "def double(x: Tensor['B', 'D']) -> Tensor['B', 'D']:\n"
    "    return x + x\n"
)  # fmt: skip
BAD = HEAD + (
    "@tessera.function\n"
    "def product(x: Tensor['B', 'D'], w: Tensor['F', 'D']) -> Tensor['B', 'F']:\n"
    "    return x @ w\n"
)  # fmt: skip

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in an empty folder: its exit status, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(*argv: str) -> tuple[int, str, str]:
        try:
            status = main(argv)
        except SystemExit as end:  # what argparse refuses
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


PACKAGE = {
    "lib/__init__.py": "",
    "lib/sizes.py": "WIDTH = 4\n",
    "lib/inner/__init__.py": "from ..sizes import WIDTH\n",
    "lib/inner/layer.py": "from . import WIDTH\nfrom .. import sizes\n" + GOOD,
    "lib/inner/__main__.py": "raise SystemExit(3)\n",
}


def test_files_inside_packages_are_imported_by_their_full_name(run: Run) -> None:
    write(PACKAGE)
    before, modules = list(sys.path), set(sys.modules)
    status, out, err = run("check", "lib/inner/layer.py")
    assert (status, err) == (0, "")
    assert "1 function in 1 file, 0 refuted" in out
    assert sys.path == before
    assert not {m for m in set(sys.modules) - modules if m.startswith("lib")}
    assert not list(Path().rglob("__pycache__"))


def test_whole_packages(run: Run) -> None:
    write(PACKAGE)
    status, out, _ = run("check", "lib")
    assert status == 0
    assert "1 function in 4 files, 0 refuted" in out


def test_scripts_find_their_neighbours(run: Run) -> None:
    write({
        "a/model.py": "from helper import N\nimport part\n" + GOOD, "a/helper.py": "N = 1\n", "a/part.py": GOOD,
        "b/model.py": "from helper import M\n" + GOOD, "b/helper.py": "M = 2\n",
    })  # fmt: skip
    status, out, _ = run("check", "a", "b")
    assert status == 0, out
    assert "3 functions in 5 files, 0 refuted" in out


def test_a_script_may_be_called_like_a_module_that_is_loaded(run: Run) -> None:
    write({"json.py": GOOD, "my-model.py": GOOD})
    assert run("check", "json.py", "my-model.py")[0] == 0
    assert json.dumps({}) == "{}"


def test_names_of_modules(tmp_path: Path) -> None:
    (tmp_path / "p" / "q").mkdir(parents=True)
    for folder in ("p", "p/q"):
        (tmp_path / folder / "__init__.py").touch()
    root = tmp_path.resolve()
    assert module_of(tmp_path / "p/q/m.py") == (root, "p.q.m")
    assert module_of(tmp_path / "p/__init__.py") == (root, "p")
    assert module_of(tmp_path / "m.py") == (root, "m")


def test_findings_are_printed_once_and_status_is_one(run: Run) -> None:
    write({"model.py": BAD, "wrong.py": HEAD + "x = Tensor['B S']\n"})
    status, out, err = run("check", "model.py", "wrong.py")
    assert (status, err) == (1, "")
    assert out.count("error[TSR0201]") == out.count("error[TSR0101]") == 1
    assert "1 function in 2 files, 2 refuted" in out


def test_a_file_that_cannot_be_run_is_told_once_with_its_line(run: Run) -> None:
    write({"model.py": HEAD + "\nimport nothing_of_that_name\n", "stop.py": "raise SystemExit(0)\n", "odd.py": "a b\n"})
    status, out, err = run("check", "model.py", "stop.py", "odd.py")
    assert (status, err) == (2, "")
    assert "model.py:4: cannot be run: ModuleNotFoundError: No module named 'nothing_of_that_name'" in out
    assert "stop.py:1: cannot be run: it ends the program with status 0" in out
    assert "odd.py:1: cannot be run: SyntaxError" in out
    status, out, err = run("check", "model.py", "--format", "json")
    assert status == 2
    assert "TSR" not in out
    json.loads(out)
    assert err.count("cannot be run") == 1


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["check", "nofile.py"], "no such file or folder: `nofile.py`"),
        (["check", "empty"], "no Python files below `empty`"),
        (["dump", "nofile.py"], "no such file: `nofile.py`"),
        (["dump", "empty:f"], "`empty` is a folder, not a file"),
        (["dump", "model.py:duble"], "no function `duble` in `model.py`; `double` is close; it has: double"),
        (["dump", "model.py", "--stage", "fusd"], "`fused` is close"),
        (["dump", "model.py", "--target", "cuda:90"], "go with `--stage source`"),
        (["dump", "model.py", "--stage", "source", "--target", "cuda:banana"], "no target `cuda:banana`"),
        (["dump", "model.py", "--stage", "source", "--backend", "cc"], "invalid choice: 'cc'"),
        (["dump", "broken.py"], "broken.py:1: cannot be run: ZeroDivisionError: division by zero"),
        (["compare", "model.py", "--size", "X=4"], "`double` has no dimension `X`"),
        (["compare", "model.py", "--size", "B"], "`B` is not NAME=NUMBER"),
        (["opt", "nofile.tsr"], "nofile.tsr: No such file or directory"),
        (["opt", "ok.tsr", "-p", "fuze"], "no pass `fuze`; `fuse` is close"),
        (["explain", "TSR0901"], "no code TSR0901; `TSR0"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        ([], "required"),
    ],
)
def test_wrong_commands_say_so_in_a_line_and_are_status_two(run: Run, argv: list[str], text: str) -> None:
    Path("empty").mkdir()
    write({"model.py": GOOD, "broken.py": "1 / 0\n", "ok.tsr": "fn f(x: f32[B]) -> f32[B] {\n  return x\n}\n"})
    status, out, err = run(*argv)
    assert (status, out) == (2, "")
    assert text in err
    assert "Traceback" not in err


def test_a_size_that_is_close(run: Run) -> None:
    write({"model.py": GOOD.replace("'D'", "'width'")})
    _, _, err = run("compare", "model.py", "--size", "widht=8")
    assert "it has: B, width" in err
    assert "`width` is close" in err


@pytest.mark.parametrize("command", ["dump", "explain", "compare"])
def test_faults_in_the_program_are_status_one(run: Run, command: str) -> None:
    write({"model.py": BAD})
    status, out, err = run(command, "model.py")
    assert (status, out) == (1, "")
    assert "error[TSR0201]" in err


def test_faults_in_text_are_status_one(run: Run) -> None:
    write({"bad.tsr": "fn f(x: f32[B] -> f32[B]"})
    assert run("opt", "bad.tsr")[0] == 1


def test_a_function_that_imports_when_it_is_traced(run: Run) -> None:
    body = "    from lazy import twice\n    return twice(x)\n"
    write({"model.py": GOOD.replace("    return x + x\n", body), "lazy.py": "def twice(x):\n    return x + x\n"})
    status, out, _ = run("dump", "model.py", "--stage", "traced")
    assert status == 0
    assert "add(x, x)" in out


@pytest.mark.parametrize("command", ["", "check", "dump", "opt", "explain", "compare"])
def test_help_names_the_exit_statuses(run: Run, command: str) -> None:
    status, out, _ = run(*filter(None, [command, "--help"]))
    assert status == 0
    assert "Exit status: 0 fine, 1 faults found in a program, 2 the command could not do its work." in out


def test_output_that_nobody_reads_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(GOOD, encoding="utf-8")
    code = "import sys; from tessera.cli import main; sys.exit(main(['opt', '--help']) or main(['dump', 'model.py']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


def test_what_a_file_prints_is_no_part_of_a_report(run: Run) -> None:
    write({"loud.py": GOOD + "print('loud')\n"})
    for form in ("json", "sarif"):
        status, out, err = run("check", "loud.py", "--format", form)
        assert status == 0 and json.loads(out) and "loud" in err
