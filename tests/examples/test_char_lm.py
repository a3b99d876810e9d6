"""The training example: same curves everywhere, runs that go on as if never stopped, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from examples import train_char_lm
from examples.char_lm import checkpoint, config, data
from examples.char_lm.config import Config
from examples.char_lm.data import Batches, Corpus, Position
from examples.char_lm.errors import BadOption, BrokenCheckpoint, ConfigMismatch, NoCorpus, NotFinite, NotSaved
from examples.char_lm.train import Trainer

SMALL: dict[str, Any] = {
    "width": 16, "depth": 1, "heads": 2, "hidden": 24, "context": 8, "batch": 2, "steps": 6, "warmup": 2, "lr": 4e-3,
    "eval_every": 3, "eval_batches": 2, "save_every": 100, "sample": 5, "backend": "eager",
}  # fmt: skip
TEXT = "the quick brown fox jumps over the lazy dog, " * 12


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def arguments(text: Path, out: Path, **more: Any) -> list[str]:
    values = {**SMALL, "corpus": text, "out": out, **more}
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def tensors(out: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(out).tensors)


# -- what it does


def test_a_run_leaves_its_results(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert train_char_lm.main(arguments(text, out)) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in log if "held_out" in r] == [3, 6]
    assert log[0]["lr"] == pytest.approx(2e-3) and log[-1]["lr"] < log[2]["lr"]
    assert Config.of(json.loads((out / "config.json").read_text())).width == 16
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    written = (out / "sample.txt").read_text()
    assert len(written) == 5 and set(written) <= set(TEXT) and written in capsys.readouterr().out


@pytest.mark.parametrize("backend", config.BACKENDS[:2])
def test_a_stopped_run_goes_on_as_if_it_had_not(backend: str, text: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = {"backend": backend, "dropout": 0.1, "accumulate": 2}
    assert train_char_lm.main(arguments(text, whole, **more)) == 0
    assert train_char_lm.main(arguments(text, parts, **more, stop=2)) == 0
    assert not (parts / "sample.txt").exists()
    torch.manual_seed(99)  # what happens between is of no account
    assert train_char_lm.main(["--resume", "--out", str(parts), "--stop", "0"]) == 0
    one, two = tensors(whole), tensors(parts)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert (whole / "log.jsonl").read_bytes() == (parts / "log.jsonl").read_bytes()
    assert (whole / "sample.txt").read_bytes() == (parts / "sample.txt").read_bytes()


def test_backends_give_the_same_curve() -> None:
    corpus = Corpus.of(TEXT)
    losses = {}
    for backend in ("compiled", "eager"):
        trainer = Trainer(Config.of({**SMALL, "steps": 20, "backend": backend}), corpus)
        losses[backend] = [trainer.step()["loss"] for _ in range(20)] + [trainer.evaluate()]
        if backend == "compiled":
            assert trainer.loss.forward.cache_info().eager == 0
    torch.testing.assert_close(losses["compiled"], losses["eager"], rtol=1e-4, atol=0)
    assert losses["eager"][-2] < losses["eager"][0] - 0.2


def test_states_of_one_backend_serve_the_other() -> None:
    corpus = Corpus.of(TEXT)
    first = Trainer(Config.of({**SMALL, "backend": "compiled"}), corpus)
    for _ in range(2):
        first.step()
    second = Trainer(Config.of(SMALL), corpus)
    second.restore(first.checkpoint())
    assert second.step()["loss"] == pytest.approx(first.step()["loss"], rel=1e-5)


def test_torch_compile_is_given_torchs_own_code() -> None:
    trainer = Trainer(Config.of({**SMALL, "backend": "torch.compile"}), Corpus.of(TEXT))
    assert not any(type(m).__module__.startswith("tessera") for m in trainer.decoder.modules())
    assert type(trainer.loss).__name__ == "OptimizedModule"


def test_accumulation_is_one_larger_batch() -> None:
    corpus = Corpus.of(TEXT)
    found = [
        Trainer(Config.of({**SMALL, **sizes}), corpus).step() for sizes in ({"batch": 4}, {"batch": 2, "accumulate": 2})
    ]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-6)
    assert found[0]["grad_norm"] == pytest.approx(found[1]["grad_norm"], rel=1e-5)


def test_every_epoch_reads_windows_once_in_another_order() -> None:
    tokens = torch.arange(100)
    batches = Batches(tokens, 8, 3, 0, Position())
    seen: dict[int, list[int]] = {}
    for _ in range(8):
        ids, targets = batches.next()
        assert torch.equal(ids + 1, targets)
        seen.setdefault(batches.position.epoch, []).extend(ids[:, 0].tolist())
    assert len(seen[0]) == len(set(seen[0])) >= 9 and seen[0] != seen[1]
    again = Batches(tokens, 8, 3, 0, Position(1, 3))
    assert again.next()[0][0, 0] == seen[1][3]


def test_the_shipped_text() -> None:
    corpus = data.read("")
    assert len(corpus.text) >= 200_000 and corpus.text.isascii()
    assert corpus.decode(corpus.tokens[:13]) == corpus.text[:13] == "First Citizen"


# -- what goes wrong


def run_error(argv: list[str], capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    """The one line that a run ends with."""
    assert train_char_lm.main(argv) == status
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said
    return said


def test_a_loss_that_is_no_number_names_step_and_checkpoint(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    step = Trainer.step

    def spoilt(self: Trainer) -> Any:
        if self.done == 4:
            with torch.no_grad():
                self.parameters["head.weight"].fill_(float("nan"))
        return step(self)

    monkeypatch.setattr(Trainer, "step", spoilt)
    said = run_error(arguments(text, out, save_every=2), capsys)
    assert said == f"error: the loss is nan in step 5; the last checkpoint is of step 4, in {out}"
    assert checkpoint.load(out).step == 4
    assert all(bool(x.isfinite().all()) for x in tensors(out).values())


def test_a_diverging_run_is_no_checkpoint(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    said = run_error(arguments(text, out, lr=1e38, warmup=0, save_every=100), capsys)
    assert "in step 2; there is no checkpoint yet" in said
    assert not (out / checkpoint.HEAD).exists()


@pytest.mark.parametrize("backend", config.BACKENDS[:2])
def test_gradients_that_are_not_finite(backend: str) -> None:
    trainer = Trainer(Config.of({**SMALL, "backend": backend}), Corpus.of(TEXT))
    trainer.parameters["head.weight"].register_hook(lambda g: g * float("inf"))
    with pytest.raises(NotFinite, match=r"norm of the gradients is (inf|nan) in step 1"):
        trainer.step()


def saved(tmp_path: Path) -> tuple[Path, Trainer]:
    trainer = Trainer(Config.of(SMALL), Corpus.of(TEXT))
    trainer.step()
    checkpoint.save(tmp_path, trainer.checkpoint())
    return tmp_path, trainer


def test_a_checkpoint_is_what_was_saved(tmp_path: Path) -> None:
    folder, trainer = saved(tmp_path)
    found, wanted = checkpoint.load(folder), trainer.checkpoint()
    assert found.tensors.keys() == wanted.tensors.keys()
    assert all(torch.equal(found.tensors[n], x) for n, x in wanted.tensors.items())
    assert (found.step, found.config, found.position) == (1, wanted.config, wanted.position)
    trainer.step()
    checkpoint.save(folder, trainer.checkpoint())
    assert sorted(p.name for p in folder.iterdir()) == [checkpoint.HEAD, "step-00000002.safetensors"]


@pytest.mark.parametrize("calls", [0, 1], ids=["tensors", "head"])
@pytest.mark.parametrize("how", ["fsync", "replace"])
def test_an_interrupted_save_leaves_the_one_before(
    how: str, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trainer = saved(tmp_path)
    before = tensors(folder)
    trainer.step()
    real, count = getattr(os, how), 0

    def fails(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count > calls * (2 if how == "fsync" else 1):  # a file and its folder are synchronised
            raise OSError(28, "no space left")
        return real(*args)

    monkeypatch.setattr(os, how, fails)
    with pytest.raises(NotSaved, match=r"step 2 was not written to .*: no space left"):
        checkpoint.save(folder, trainer.checkpoint())
    monkeypatch.undo()
    assert checkpoint.load(folder).step == 1
    assert all(torch.equal(before[name], x) for name, x in tensors(folder).items())
    checkpoint.save(folder, trainer.checkpoint())
    assert sorted(p.name for p in folder.iterdir()) == [checkpoint.HEAD, "step-00000002.safetensors"]


def test_damage_is_told(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "good")
    head, (weights,) = folder / checkpoint.HEAD, folder.glob("*.safetensors")
    told = {}
    for what in ("cut", "flipped", "gone", "head cut", "other format", "no config", "outside", "nothing"):
        bad = Path(shutil.copytree(folder, tmp_path / what))
        content, values = (bad / weights.name).read_bytes(), json.loads(head.read_text())
        if what == "cut":
            (bad / weights.name).write_bytes(content[:-10])
        elif what == "flipped":
            (bad / weights.name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif what == "gone":
            (bad / weights.name).unlink()
        elif what == "head cut":
            (bad / head.name).write_text(head.read_text()[:50])
        elif what == "nothing":
            (bad / head.name).unlink()
        else:
            values |= {"other format": {"format": 7}, "outside": {"tensors": "../x"}}.get(what, {})
            if what == "no config":
                del values["config"]
            (bad / head.name).write_text(json.dumps(values))
        with pytest.raises(BrokenCheckpoint) as caught:
            checkpoint.load(bad)
        told[what] = str(caught.value).replace(str(bad), "F")
        assert "\n" not in told[what]
    size, name = weights.stat().st_size, weights.name
    assert told["cut"] == f"F/{name} has {size - 10} of {size} bytes"
    assert told["flipped"] == f"F/{name} is not what was written: its digest differs"
    assert told["gone"] == f"F/{name} cannot be read: No such file or directory"
    assert told["head cut"].startswith("F/checkpoint.json is truncated or changed: ")
    assert told["other format"] == "F/checkpoint.json has format 7, not 1"
    assert told["no config"] == "F/checkpoint.json is not what was written: no 'config'"
    assert told["outside"] == "F/checkpoint.json names the tensors '../x'"
    assert told["nothing"] == "there is no checkpoint in F"


def test_another_config_is_told_at_once(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert train_char_lm.main(arguments(text, out, stop=1)) == 0
    before = (out / checkpoint.HEAD).read_bytes()
    capsys.readouterr()
    said = run_error(["--resume", "--out", str(out), "--width", "32", "--depth", "2", "--sample", "0"], capsys)
    assert said == "error: width is 16 in the checkpoint and 32 here; depth is 1 in the checkpoint and 2 here"
    text.write_text(TEXT + "more")
    assert "is not the text" in run_error(["--resume", "--out", str(out)], capsys)
    assert (out / checkpoint.HEAD).read_bytes() == before


def test_texts_that_do_not_serve(tmp_path: Path) -> None:
    with pytest.raises(NoCorpus, match=r"nothing\.txt cannot be read: No such file"):
        data.read(str(tmp_path / "nothing.txt"))
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    with pytest.raises(NoCorpus, match="is no UTF-8 text: byte 2 is not"):
        data.read(str(tmp_path / "bytes"))
    with pytest.raises(NoCorpus, match="has 4 characters to evaluate, and a batch takes 25"):
        Trainer(Config.of(SMALL), Corpus.of("too short a text. " * 2 + "to be"))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--width", "17"], "width 17 is not a multiple of 2 * heads, 8"),
        (["--lr", "nan", "--batch", "0"], "batch is 0, not from 1 to inf; lr is nan, not from 0 to inf"),
        (["--warmup", "60"], "warmup is 60 of 60 steps"),
        (["--backend", "jit"], "backend is 'jit', not one of compiled, eager, torch.compile"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many' (--help lists the options)"),
        (["--widht", "64"], "unrecognized arguments: --widht 64 (--help lists the options)"),
    ],
)
def test_options_that_do_not_serve(options: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_error(options, capsys, status=2) == f"error: {wanted}"


def test_a_config_comes_from_json_too(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"width": 64, "lr": 1}))
    assert config.given(["--config", str(path), "--width", "32"], "p", "") == ({"width": 32, "lr": 1}, False)
    path.write_text(json.dumps({"widht": 64, "depht": 1}))
    with pytest.raises(BadOption, match=r"no field widht \(is width meant\?\); no field depht \(is depth meant\?\)"):
        config.given(["--config", str(path)], "p", "")
    whole = Config(width=64, lr=0.5)
    assert Config.of(json.loads(whole.dumps())) == whole
    with pytest.raises(ConfigMismatch):
        config.same_run({"seed": 1}, whole)
