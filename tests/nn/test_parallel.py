"""Modules under torch's wrappers for several processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tessera import Tensor, nn

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        self.layers = [nn.Linear(4, 8), nn.Linear(8, 4)]
        self.norm = nn.RMSNorm(4)

    def forward(self, x: Tensor["B", 4]) -> Tensor["B", 4]:
        return self.norm(x + self.layers[1](torch.relu(self.layers[0](x))))


def join(rank: int, size: int, place: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=size)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    join(0, 1, str(tmp_path / "meet"))
    yield
    dist.destroy_process_group()


def learn(model: Any, x: torch.Tensor, steps: int = 3) -> torch.Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return model(x)


def test_data_parallel(alone: None) -> None:
    torch.manual_seed(0)
    net = Net()
    other = copy.deepcopy(net)
    wrapped = DistributedDataParallel(net)
    torch.testing.assert_close(learn(wrapped, X), learn(other, X))
    assert list(wrapped.state_dict()) == [f"module.{key}" for key in other.state_dict()]


@pytest.mark.filterwarnings("ignore::tessera.TesseraWarning")
def test_fully_sharded(alone: None) -> None:
    """Inner modules that are sharded have hooks, and are compiled one by one."""
    torch.manual_seed(0)
    net = Net()
    other = copy.deepcopy(net)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    for layer in net.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    torch.testing.assert_close(learn(net, X), learn(other, X))


def _half(rank: int, place: str) -> None:
    torch.set_num_threads(1)
    join(rank, 2, f"{place}/meet")
    torch.manual_seed(rank)  # the wrapper gives all the parameters of the first
    model = DistributedDataParallel(Net())
    learn(model, X[rank * 3 : rank * 3 + 3])
    torch.save(model.module.state_dict(), f"{place}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    mp.spawn(_half, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(0)
    whole = Net()
    learn(whole, X)
    torch.testing.assert_close(first, dict(whole.state_dict()), rtol=1e-4, atol=1e-5)
