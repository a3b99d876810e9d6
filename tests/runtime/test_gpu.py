"""Calls on GPUs as far as a machine without one can tell: what is allocated, handed over, switched and refused.

CPU tensors count as those of a GPU; compiled kernels record how they are launched, and compute nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

import tessera
from tessera import ResourceError, Tensor, TesseraWarning
from tessera.backends.base import Target
from tessera.backends.triton.source import Bound
from tessera.driver import devices
from tessera.driver.layout import Places
from tessera.driver.variant import Variant
from tessera.runtime import gpu
from tessera.runtime.dispatch import NoAddressError


@dataclasses.dataclass
class Fake:
    """A GPU that only remembers: what was compiled, launched (kernel, grid, stream, arguments), allocated."""

    compiled: list[tuple[str, dict[str, str]]] = dataclasses.field(default_factory=list)
    launched: list[tuple[str, int, int, tuple[Any, ...]]] = dataclasses.field(default_factory=list)
    allocated: list[tuple[tuple[int, ...], torch.dtype, torch.device]] = dataclasses.field(default_factory=list)
    entered: list[int] = dataclasses.field(default_factory=list)
    current: int = 0
    fails: Exception | None = None
    capturing: bool = False
    ready: bool = True

    def compile(self, module: Any, bound: Bound, signature: Mapping[str, str]) -> Any:
        if self.fails is not None:
            raise self.fails
        self.compiled.append((bound.function.name, dict(signature)))
        return _Compiled(self, bound.function.name)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        self.allocated.append((shape, dtype, device))
        return torch.zeros(shape, dtype=dtype)

    @contextlib.contextmanager
    def on(self, index: int) -> Iterator[None]:
        before, self.current = self.current, index
        self.entered.append(index)
        try:
            yield
        finally:
            self.current = before

    def accelerator(self) -> devices.Accelerator:
        platform = gpu.Platform(self.empty, lambda index: 100 + index, lambda: self.current, self.on)
        return devices.Accelerator(
            platform, target=lambda device: Target("cuda", "90"), wait=lambda device: None,
            capturing=lambda: self.capturing, ready=lambda: self.ready, compile=self.compile,
            load=lambda text, folder: text,
        )  # fmt: skip


class _Compiled:
    function, packed_metadata = "code", "metadata"

    def __init__(self, fake: Fake, name: str) -> None:
        self.fake, self.name = fake, name

    def run(self, grid: int, y: int, z: int, stream: int, *rest: Any) -> None:
        assert (y, z, *rest[:5]) == (1, 1, "code", "metadata", None, None, None)
        self.fake.launched.append((self.name, grid, stream, rest[5:]))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setitem(devices.ACCELERATORS, "cpu", made.accelerator())
    return made


def scale() -> Any:
    @tessera.function
    def scale(x: Tensor["N", "D"], w: Tensor["D"], a: float = 0.5) -> Tensor["N", "D"]:
        return x * w * a

    return scale


def linear() -> Any:
    @tessera.function
    def linear(x: Tensor["N", "D"], w: Tensor["D", "H"]) -> tuple[Tensor["N", "H"], Tensor["N"]]:
        y = torch.relu(x) @ w
        return y + 1, y.sum(dim=-1)

    return linear


X, W = torch.ones(48, 64), torch.ones(64)


def aligned(*shape: int) -> torch.Tensor:
    return torch.empty(*shape)


def test_what_a_launch_is_given(fake: Fake) -> None:
    f = scale()
    x, w = aligned(48, 64), aligned(64)
    for turn in range(3):
        y = f(x, w, 0.25)
        _, grid, stream, args = fake.launched[turn]
        assert stream == 100 and grid > 0
        assert args[:3] == (x.data_ptr(), w.data_ptr(), y.data_ptr())
        assert args[3:6] == (48, 64, 0.25)
    assert len(fake.compiled) == 1
    assert fake.allocated == [((48, 64), torch.float32, torch.device("cpu"))] * 3
    assert f.cache_info().hits == 2 and f.cache_info().eager == 0


def test_other_sizes_of_a_class_compile_nothing(fake: Fake) -> None:
    f = scale()
    for n in (16, 32, 48):
        f(aligned(n, 64), aligned(64))
    assert len(fake.compiled) == 1 and f.cache_info().variants == 1


def test_strides_are_arguments(fake: Fake) -> None:
    f = scale()
    f(aligned(64, 48).T, aligned(64))
    f(aligned(64, 80).T[:48], aligned(64))
    assert [80 in args for *_, args in fake.launched] == [False, True]


def test_library_calls_stand_between_kernels(fake: Fake) -> None:
    f = linear()
    y, total = f(X, torch.ones(64, 8))
    assert y.shape == (48, 8) and total.shape == (48,)
    assert len(fake.launched) >= 2
    assert f.cache_info().eager == 0


def test_a_call_on_another_device_switches(fake: Fake) -> None:
    f = scale()
    traced = f.resolve(X, W).variant.traced
    there = dataclasses.replace(fake.accelerator())
    for index in (0, 1):
        device = torch.device("cuda", index)
        variant = Variant(traced, device=device)
        plan = variant._device_plan(there)
        assert plan.device == device
        runner = plan.bind({"N": 48, "D": 64}, alone=True)
        runner([X, W], [0.5])
        runner([X, W], [0.5])
        assert fake.launched[-1][2] == 100 + index
        assert fake.allocated[-1][2] == device
    assert fake.entered == [1, 1] and fake.current == 0
    assert len(fake.compiled) == 2  # each device loads code of its own


def test_devices_have_forms_of_their_own() -> None:
    key = [devices.device_of([torch.empty(2, device="meta"), X]), devices.device_of([X]), devices.device_of([])]
    assert [d.type for d in key] == ["meta", "cpu", "cpu"]
    assert devices.device_of([torch.tensor(1.0), torch.empty(2, device="meta")]).type == "meta"


def test_what_only_torch_can_run() -> None:
    meta = torch.empty(2, device="meta")
    assert devices.backend_of([X]) == "c"
    assert devices.backend_of([meta]) is None
    assert devices.backend_of([meta, torch.tensor(1.0)]) is None


def test_backends_by_name(fake: Fake) -> None:
    f = scale()
    with tessera.backend("c"), pytest.raises(ResourceError, match="needs tensors on the CPU"):
        f(X, W)
    with tessera.backend("triton"):
        f(X, W)
    assert f.cache_info().eager == 0 and len(fake.launched) == 1
    with tessera.backend("eager"):
        assert torch.equal(f(X, W), X * 0.5)


def test_triton_is_for_gpus() -> None:
    with tessera.backend("triton"), pytest.raises(ResourceError, match="needs tensors on a GPU"):
        scale()(X, W)


@pytest.mark.parametrize("how", ["missing", "refused"])
def test_without_code_calls_run_eagerly_with_one_warning(fake: Fake, how: str) -> None:
    fake.ready = how != "missing"
    fake.fails = RuntimeError("ptxas: no") if how == "refused" else None
    f = scale()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            assert torch.equal(f(X, W), X * 0.5)
            assert torch.equal(f(X[:7], W), X[:7] * 0.5)
    (one,) = caught
    assert one.category is TesseraWarning and "TSR0607" in str(one.message)
    assert ("not installed" if how == "missing" else "ptxas: no") in " ".join(str(one.message).split())
    assert fake.launched == []
    with tessera.backend("triton"), pytest.raises(ResourceError):
        scale()(X, W)


def test_a_refusal_on_the_warm_path(fake: Fake) -> None:
    """Code for another alignment is first needed when the sizes are known already."""
    f = scale()
    f(aligned(48, 64), W)
    f(aligned(48, 64), W)
    fake.fails = RuntimeError("ptxas: no")
    odd = torch.ones(48 * 64 + 1)[1:].view(48, 64)
    with pytest.warns(TesseraWarning, match="ptxas"):
        assert torch.equal(f(odd, W), X * 0.5)
    f(aligned(48, 64), W)
    assert len(fake.launched) == 3


def test_a_cold_call_inside_a_capture_runs_eagerly(fake: Fake) -> None:
    f = scale()
    fake.capturing = True
    with pytest.warns(TesseraWarning, match="captured"):
        assert torch.equal(f(X, W), X * 0.5)
    fake.capturing = False
    f(X, W)
    fake.capturing = True
    f(X, W)
    assert len(fake.launched) == 2


def test_sixteen_threads_compile_once(fake: Fake) -> None:
    f = scale()
    start = threading.Barrier(16)

    def work() -> None:
        start.wait()
        f(X, W)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(fake.compiled) == 1 and len(fake.launched) == 16 and f.cache_info().variants == 1


def test_nothing_is_launched_for_empty_tensors(fake: Fake) -> None:
    assert scale()(torch.ones(0, 64), W).shape == (0, 64)
    assert fake.launched == []


def test_gradients_are_launched_too(fake: Fake) -> None:
    f = scale()
    x = torch.ones(48, 64, requires_grad=True)
    f(x, W).sum().backward()
    assert x.grad is not None and len(fake.launched) == 2 and f.cache_info().eager == 0


def test_tensors_without_memory_go_through_torch(fake: Fake) -> None:
    f = scale()
    plan = f.resolve(X, W).variant.plan()
    freed = torch.ones(48, 64)
    freed.untyped_storage().resize_(0)
    with pytest.raises(NoAddressError):
        plan.bind({"N": 48, "D": 64}, alone=True)([freed, W], [0.5])
    assert fake.launched == []


def test_tensors_made_in_a_call_are_made_there() -> None:
    @tessera.function
    def made(x: Tensor["N"]) -> tuple[Tensor["N"], Tensor[()], Tensor[3]]:
        return x + 1, torch.tensor(2.5), torch.linspace(0.0, 1.0, 3)

    traced = made.check().traced[0]
    program = Variant(traced).program

    def kernel(step: Any, places: Places[gpu.LaunchStep]) -> gpu.LaunchStep:
        return gpu.LaunchStep(lambda sizes: lambda a, s, stream: 1, places.buffers(step), (), step.name)

    laid = Places(program, torch.device("meta"), kernel)
    platform = gpu.Platform(
        lambda shape, dtype, device: torch.empty(shape, dtype=dtype, device=device), lambda n: 0, lambda: 0,
        lambda n: contextlib.nullcontext(),
    )  # fmt: skip
    steps = tuple(s for s in laid.steps if not isinstance(s, gpu.LaunchStep))
    plan = gpu.DevicePlan(
        torch.device("meta"), platform, laid.inputs, len(laid.slots), tuple(laid.allocs), steps, tuple(laid.outputs)
    )
    found: Sequence[torch.Tensor] = plan.bind({"N": 4})([torch.empty(4, device="meta")], [])
    assert [x.device.type for x in found] == ["meta"] * 3


def test_code_asks_where_it_runs(fake: Fake) -> None:
    asked: list[Any] = []

    @tessera.function
    def ask(x: Tensor["N"]) -> Tensor["N"]:
        asked.append((x.is_cuda, x.get_device(), x.device))
        return x + 1

    ask(torch.ones(3))
    assert asked[-1] == (False, -1, torch.device("cpu"))
    variant = ask.resolve(torch.ones(3))
    ask.compiled._trace(variant.bound, variant.types, torch.device("cuda", 1))
    assert asked[-1] == (True, 1, torch.device("cuda", 1))


def test_lowering_is_for_the_device_of_the_arguments(fake: Fake) -> None:
    lowered = scale().lower(X, W, backend="triton")
    assert lowered.target == Target("cuda", "90")


def test_the_table_names_cuda() -> None:
    there = devices.ACCELERATORS["cuda"]
    assert there.platform.current is torch.cuda.current_device
    assert isinstance(there.platform.on(0), torch.cuda.device)
