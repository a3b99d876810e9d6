"""The example programs run, and say what they are there to say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

import tessera
from examples import errors, quickstart

#: The code that each mistake must be diagnosed with.
CODES = {
    "wrong_contraction": "TSR0201",
    "wrong_broadcast": "TSR0202",
    "swapped_dims": "TSR0202",
    "missing_keepdim": "TSR0217",
    "bad_reshape": "TSR0205",
    "bad_divisor": "TSR0208",
    "wrong_return": "TSR0210",
    "wrong_call": "TSR0211",
    "mismatched_concat": "TSR0206",
    "bad_einsum": "TSR0209",
}


@pytest.mark.parametrize("name", quickstart.EXAMPLES)
def test_every_function_is_proved_and_compiled(name: str) -> None:
    function = quickstart.EXAMPLES[name].function
    assert function.check().ok  # type: ignore[attr-defined]
    text = function.ir("fused")  # type: ignore[attr-defined]
    assert f"fn {name}(" in text


@pytest.mark.parametrize("name", quickstart.EXAMPLES)
def test_every_function_agrees_with_eager(name: str) -> None:
    example = quickstart.EXAMPLES[name]
    arguments = example.arguments()
    torch.testing.assert_close(example.function(*arguments), example.function.eager(*arguments))  # type: ignore[attr-defined]


def test_the_quickstart_shows_and_sums_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert quickstart.main(["rope", "adamw"]) == 0
    printed = capsys.readouterr().out
    assert "guarded  D % 2 == 0" in printed
    assert "fn adamw(" in printed
    table = printed.rpartition("==")[2].splitlines()
    assert [line.split()[0] for line in table[-2:]] == ["rope", "adamw"]


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert quickstart.main(["nothing"]) == 2
    assert "rms_norm" in capsys.readouterr().err


def test_there_are_ten_mistakes() -> None:
    assert [mistake.__name__ for mistake in errors.MISTAKES] == list(CODES)


@pytest.mark.parametrize("mistake", errors.MISTAKES, ids=lambda m: m.__name__)
def test_every_mistake_is_found_where_it_stands(mistake: object) -> None:
    error = errors.diagnose(mistake)  # type: ignore[arg-type]
    assert isinstance(error, tessera.TesseraError)
    assert error.code == CODES[mistake.__name__]  # type: ignore[attr-defined]
    assert error.spans and error.spans[0].file.endswith("errors.py")


def test_the_program_of_mistakes_ends_well(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(repository / "examples" / "errors.py"), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.count("error[TSR") == 10
