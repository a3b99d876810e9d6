"""Loading a state: every mismatch at once, by dimension name, and nothing is changed by what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tessera
from tessera import CheckpointError, Tensor, nn


class Block(nn.Module):
    mix: Tensor["2*D", "D"]

    def __init__(self, width: int, rows: int) -> None:
        self.up = nn.Linear(width, rows)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Parameter(torch.zeros(2 * width, width))
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.bare = torch.nn.Conv1d(width, 2, 3)

    def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "rows"]:
        return self.up(self.norm(x @ self.mix.T @ self.mix))


def states(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def refused(module: torch.nn.Module, state: dict[str, Any], **options: Any) -> CheckpointError:
    """The error of loading; the module must be as it was."""
    before = states(module)
    with pytest.raises(CheckpointError) as caught:
        module.load_state_dict(state, **options)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert caught.value.code == "TSR0611" and isinstance(caught.value, RuntimeError)
    return caught.value


def notes(error: CheckpointError) -> list[str]:
    return [note.text for note in error.diagnostics[0].notes]


def test_everything_that_differs_is_told_by_name() -> None:
    state = Block(4, 6).state_dict()
    state["extra"] = state.pop("norm.bias")
    error = refused(Block(8, 5), state)
    assert notes(error) == [
        "`mix`: 2*D is 16 here and 8 in the checkpoint",
        "`mix`: D is 8 here and 4 in the checkpoint",
        "`up.weight`: out_features is 5 here and 6 in the checkpoint",
        "`up.weight`: in_features is 8 here and 4 in the checkpoint",
        "`up.bias`: out_features is 5 here and 6 in the checkpoint",
        "`norm.weight`: features is 8 here and 4 in the checkpoint",
        "`bare.weight`: dim 1 is 8 here and 4 in the checkpoint",
        "`norm.bias` is missing in the checkpoint",
        "`extra` is not known here",
    ]
    assert error.message == "the checkpoint does not fit `Block`: 5 tensors differ, 2 names are missing or not known"
    assert error.spans[0].text() == "module.load_state_dict(state, **options)"


def test_ranks_kinds_and_things() -> None:
    module = Block(4, 6)
    state: dict[str, Any] = {**module.state_dict(), "up.weight": torch.ones(24), "up.bias": torch.ones(6).long()}
    state |= {"norm.weight": [1.0] * 4, "steps": torch.ones(())}
    assert notes(refused(module, state)) == [
        "`steps`: int64 here and float32 in the checkpoint",
        "`up.weight`: shape [6, 4] here and [24] in the checkpoint",
        "`up.bias`: float32 here and int64 in the checkpoint",
        "`norm.weight` is a list in the checkpoint",
    ]


def test_widths_are_converted_and_assigned() -> None:
    module = Block(4, 6)
    state = {k: v.to(torch.float64) if v.is_floating_point() else v for k, v in Block(4, 6).state_dict().items()}
    assert not any(module.load_state_dict(state))
    assert module.up.weight.dtype is torch.float32
    module.load_state_dict(state, assign=True)
    assert module.up.weight.dtype is torch.float64


def test_what_is_not_strict_may_lack_names_but_not_differ_in_size() -> None:
    module, state = Block(4, 6), states(Block(4, 6))
    del state["up.bias"]
    state["more"] = torch.ones(1)
    found = module.load_state_dict(state, strict=False)
    assert found.missing_keys == ["up.bias"] and found.unexpected_keys == ["more"]
    state["up.weight"] = torch.ones(6, 5)
    assert len(notes(refused(module, state, strict=False))) == 1


def test_prefixes_of_wrappers_are_recognised() -> None:
    module = nn.Linear(2, 3)
    error = refused(module, {f"module.{key}": value for key, value in module.state_dict().items()})
    assert notes(error)[2] == "`module.weight` is not known here; `weight` is missing"
    assert "begin with `module.`" in error.diagnostics[0].helps[0].text


def test_a_long_list_is_cut() -> None:
    deep = nn.Sequential(*[nn.Linear(2, 2) for _ in range(40)])
    error = refused(deep, {})
    assert len(notes(error)) == 41 and notes(error)[-1] == "and 40 more"


def test_modules_that_load_in_their_own_way() -> None:
    """Batch norm knows checkpoints that lack its count; hooks may rename."""
    net = nn.Sequential(nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    old = states(net)
    del old["1.num_batches_tracked"]
    torch.nn.Module.load_state_dict(net, old, strict=False)

    class Renamed(nn.Module):
        def __init__(self) -> None:
            self.weight = nn.Parameter(torch.zeros(2))
            self.register_load_state_dict_pre_hook(self._rename)

        @staticmethod
        def _rename(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
            state[f"{prefix}weight"] = state.pop(f"{prefix}gain")

        def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
            return x * self.weight

    module = Renamed()
    module.load_state_dict({"gain": torch.ones(2)})
    assert torch.equal(module.weight, torch.ones(2))


@pytest.mark.parametrize("make", [lambda: tessera.nn.Linear(2, 3), lambda: Block(4, 6)])
def test_what_fits_is_loaded(make: Callable[[], Any]) -> None:
    one, two = make(), make()
    assert not any(one.load_state_dict(two.state_dict()))
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
