"""Products with work around them on GPUs: which launches carry them out, and what these are made of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tessera.backends.base import Target
from tessera.backends.triton.aot import Worker, available, compile_aot
from tessera.backends.triton.describe import launches
from tessera.backends.triton.emit import emit
from tessera.backends.triton.source import TritonSource
from tests.backends.stream_cases import CASES, IN_PIECES

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")

NARROW = "cuda:90"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def source_of(name: str, target: str = NARROW) -> TritonSource:
    case = next(c for c in (*IN_PIECES, *CASES) if c.function.__name__ == name)
    (kernel,) = case.stages[1].kernels
    kind, _, arch = target.partition(":")
    return emit(kernel, Target(kind, arch))  # type: ignore[arg-type]


def launched(source: TritonSource, **sizes: int) -> list[str]:
    """The nests that run, by number and mode."""
    return [b.function.name for b in source.bind(sizes)]


def test_computed_factors_are_rounded_so_that_tensor_cores_take_them(worker: Worker) -> None:
    source = source_of("narrow_scaled")
    assert "input_precision" not in source.text and "tl.float32), input" not in source.text
    bound = source.bind({"S": 8192, "D": 4096, "T": 4096, "E": 4096})
    assert [b.config.mode for b in bound] == ["streamed", "streamed"]
    for nest in compile_aot(source, NARROW, bound, worker=worker).nests:
        assert "HGMMA" in nest.stages["sass"] and "UTMALDG" in nest.stages["sass"]
        assert nest.resources["spills"] == 0, nest.resources


def test_products_that_share_rows_alone_run_apart_where_there_are_many_rows() -> None:
    source = source_of("narrow_projected")
    assert launched(source, S=8192, T=8192, D=4096) == ["nest2_streamed", "nest3_streamed"]
    assert [b.config.rows * b.config.cols for b in source.bind({"S": 8192, "T": 8192, "D": 4096})] == [128 * 256] * 2
    assert launched(source, S=255, T=32768, D=4096) == ["nest0_streamed"]
    assert launched(source, S=1, T=32768, D=4096) == ["nest1_hold"]
    assert launched(source, S=16, T=1024, D=4096) == ["nest4_walked", "nest5_hold"]


def test_what_is_launched_is_told_with_its_reason() -> None:
    source = source_of("narrow_linear")

    def told(**sizes: int) -> str:
        return next(launches(source, sizes))

    assert "132 programs" in told(S=8192, T=8192, D=4096) and "2048 tiles in all" in told(S=8192, T=8192, D=4096)
    assert "a matrix does not lie as descriptors need it" in told(S=8192, T=8192, D=4095)
    assert "tiles are small" in told(S=16, T=8192, D=8192) and "reads from memory" in told(S=16, T=8192, D=8192)
    assert "the sums are short" in told(S=8192, T=8192, D=64)


def test_tiles_are_as_many_as_units_take_at_a_time() -> None:
    def tiles(units: int, **sizes: int) -> tuple[int, int, int]:
        (case,) = (c for c in IN_PIECES if c.function.__name__ == "narrow_linear")
        (bound,) = emit(case.stages[1].kernels[0], Target("cuda", "90", units=units)).bind(sizes)
        return bound.config.rows, bound.config.cols, bound.config.grid

    assert tiles(132, S=8192, T=8192, D=4096) == (128, 256, 132)
    assert tiles(78, S=8192, T=8192, D=4096) == (128, 256, 78)
    # There are 64 tiles of 128 x 256, or 128 half as large: one round for 132 units, two for 80.
    assert tiles(132, S=512, T=4096, D=4096) == (128, 128, 128)
    assert tiles(80, S=512, T=4096, D=4096) == (128, 256, 64)


@pytest.mark.parametrize(("name", "long"), [("narrow_linear", 2048), ("linear", 384)])
def test_sums_are_cut_where_half_of_one_takes_longer_than_a_launch(name: str, long: int) -> None:
    source = source_of(name)
    assert len(launched(source, S=16, T=256, D=long)) == 2
    assert len(launched(source, S=16, T=256, D=long - 1)) == 1


@pytest.mark.parametrize(("name", "long", "tile"), [
    ("narrow_gelu", 8190, 128 * 128), ("narrow_gelu", 8192, 128 * 256), ("narrow_silu", 4096, 128 * 256),
])  # fmt: skip
def test_nothing_spills(name: str, long: int, tile: int, worker: Worker) -> None:
    source = source_of(name)
    bound = source.bind({"S": 8192, "T": 8192, "D": long})
    assert [b.config.rows * b.config.cols for b in bound] == [tile]
    for nest in compile_aot(source, NARROW, bound, worker=worker).nests:
        assert nest.resources["spills"] == 0 and "HGMMA" in nest.stages["sass"], nest.resources
        assert ("UTMALDG" in nest.stages["sass"]) == (long % 16 == 0)
