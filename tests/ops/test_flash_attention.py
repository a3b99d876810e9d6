"""`ops.flash_attention`: one kernel in every option, close to float64, typed errors."""

from __future__ import annotations

import doctest
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import DTypeError, ShapeError, Tensor, TesseraError, ops
from tessera.ir.dialects.random import philox
from tessera.ops import attention

INF = float("inf")
B, H, K, S, T, D, E = 2, 6, 3, 33, 50, 16, 24
LIMITS = {torch.float32: 4e-7, torch.float64: 2e-15, torch.bfloat16: 4e-3}


def floats(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(kind: torch.dtype = torch.float32, s: int = S, t: int = T, k: int = K) -> tuple[torch.Tensor, ...]:
    tensors = floats(B, H, s, D, seed=1), floats(B, k, t, D, seed=2), floats(B, k, t, E, seed=3)
    return tuple(x.to(kind) for x in tensors)


def chance(p: float, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(4)) < p


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition in float64, the scores kept; and the logarithms of the sums."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    i = torch.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2]
    j = torch.arange(k.shape[2])
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    if is_causal:
        seen = seen & (j <= i)
    if window is not None:
        seen = seen & ((i - j).abs() < window)
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    if mask is not None and mask.dtype == torch.bool:
        seen = seen & mask
    elif mask is not None:
        scores = scores + mask.double()
    scores = scores.masked_fill(~seen, -INF)
    sums = torch.logsumexp(scores, -1)
    return torch.where((sums == -INF)[..., None], 0.0, torch.softmax(scores, -1) @ v), sums


def error(value: torch.Tensor, wanted: torch.Tensor) -> float:
    assert torch.equal(value.double().isinf(), wanted.isinf())
    finite = wanted.isfinite()
    return float((value.double() - wanted)[finite].norm() / wanted[finite].norm())


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What each compiled call of a test is lowered to."""
    found: list[Any] = []
    real = attention._program

    def watched(*key: Any) -> Callable[..., Any]:
        program = real(*key)

        def call(*arguments: Any) -> Any:
            found.append(program.lower(*arguments))  # type: ignore[attr-defined]
            before = program.cache_info().eager  # type: ignore[attr-defined]
            result = program(*arguments)
            assert program.cache_info().eager == before  # type: ignore[attr-defined]
            return result

        return call

    monkeypatch.setattr(attention, "_program", watched)
    yield found


def one_kernel(lowered: list[Any]) -> bool:
    """One kernel a call, and beside it nothing but views."""
    return all(len(one.kernels) == 1 and set(one.calls) <= {"squeeze"} for one in lowered) and bool(lowered)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale": 0.0, "return_lse": True},
    "causal": {"is_causal": True, "return_lse": True},
    "window": {"window": 7},
    "causal window": {"is_causal": True, "window": 7},
    "bool mask": {"mask": chance(0.1, S, T), "return_lse": True},
    "bool mask of a batch": {"mask": chance(0.5, B, S, T), "is_causal": True},
    "bool mask of keys": {"mask": chance(0.5, B, 1, 1, T), "return_lse": True},
    "float mask": {"mask": floats(S, T), "is_causal": True},
    "float mask of heads": {"mask": floats(1, H, S, T).masked_fill(chance(0.97, S, T), -INF), "return_lse": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is_one_kernel_close_to_float64(options: dict[str, Any], lowered: list[Any]) -> None:
    tensors = inputs()
    found = ops.flash_attention(*tensors, **options)
    values = found if isinstance(found, tuple) else (found,)
    for value, wanted in zip(values, reference(*tensors, **options), strict=False):
        assert value.dtype == torch.float32
        assert error(value, wanted) <= LIMITS[torch.float32]
    assert one_kernel(lowered)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_other_dtypes(kind: torch.dtype, lowered: list[Any]) -> None:
    tensors = inputs(kind)
    result, sums = ops.flash_attention(*tensors, is_causal=True, return_lse=True)
    assert (result.dtype, sums.dtype) == (kind, torch.float64 if kind == torch.float64 else torch.float32)
    for value, wanted in zip((result, sums), reference(*tensors, is_causal=True), strict=True):
        assert error(value, wanted) <= LIMITS[kind]
    assert one_kernel(lowered)


def test_the_library_gives_the_same() -> None:
    q, k, v = inputs()
    wanted = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(ops.flash_attention(q, k, v), wanted)
    q, k, v = inputs(s=T)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(ops.flash_attention(q, k, v, is_causal=True), wanted)


@pytest.mark.parametrize("heads", [1, H])
def test_one_key_head_and_as_many_as_query_heads(heads: int) -> None:
    tensors = inputs(k=heads)
    assert error(ops.flash_attention(*tensors, is_causal=True), reference(*tensors, is_causal=True)[0]) <= 4e-7


def test_more_queries_than_keys_leave_rows_empty() -> None:
    tensors = inputs(s=T, t=S)
    result, sums = ops.flash_attention(*tensors, is_causal=True, return_lse=True)
    assert bool((result[:, :, : T - S] == 0).all()) and bool((sums[:, :, : T - S] == -INF).all())
    assert error(result, reference(*tensors, is_causal=True)[0]) <= 4e-7


def test_no_keys_and_no_queries() -> None:
    result, sums = ops.flash_attention(*inputs(t=0), return_lse=True)
    assert result.shape == (B, H, S, E) and bool((result == 0).all()) and bool((sums == -INF).all())
    assert ops.flash_attention(*inputs(s=0), is_causal=True).shape == (B, H, 0, E)


def test_a_nan_stays_in_its_row() -> None:
    q, k, v = inputs()
    q[0, 0, 3, 0] = float("nan")
    rows = ops.flash_attention(q, k, v, is_causal=True).isnan().any(-1)
    assert rows.nonzero().tolist() == [[0, 0, 3]]


# -- dropout --------------------------------------------------------------------------------------


def weights(p: float, seed: int | None) -> torch.Tensor:
    """The weights themselves: the values are the identity."""
    q, k, _ = inputs()
    return ops.flash_attention(q, k, torch.eye(T).expand(B, K, T, T).contiguous(), dropout_p=p, dropout_seed=seed)


def test_seeded_dropout_drops_what_philox_says(lowered: list[Any]) -> None:
    seed, p = 0x1234_5678_9ABC, 0.3
    found, whole = weights(p, seed), weights(0.0, None)
    key = seed & 0xFFFFFFFF, seed >> 32
    for b, h, i, j in ((0, 0, 0, 0), (0, 1, 2, 3), (1, 5, 32, 49), (1, 0, 17, 8)):
        words = philox(
            (j, i, b * H + h, 0),
            key,
            lambda x, c: ((x * c) >> 32, x * c & 0xFFFFFFFF),
            lambda k, w: (k + w) & 0xFFFFFFFF,
        )
        assert bool(found[b, h, i, j] != 0) == ((words[0] >> 8) * 2.0**-24 >= p)
    kept = found != 0
    assert 0.68 < kept.double().mean().item() < 0.72
    torch.testing.assert_close(found[kept], (whole / (1 - p))[kept])
    assert torch.equal(found, weights(p, seed)) and not torch.equal(found, weights(p, seed + 1))
    assert one_kernel(lowered)


def test_dropout_without_a_seed_follows_the_generator() -> None:
    tessera.manual_seed(1)
    first, second = weights(0.5, None), weights(0.5, None)
    tessera.manual_seed(1)
    assert torch.equal(first, weights(0.5, None)) and not torch.equal(first, second)


def test_the_ends_of_dropout() -> None:
    assert bool((weights(1.0, 3) == 0).all())
    assert torch.equal(weights(0.0, 3), weights(0.0, None))


# -- inside other functions -----------------------------------------------------------------------


@tessera.function
def block(
    q: Tensor["B", "H", "S", "D"],
    k: Tensor["B", "K", "T", "D"],
    v: Tensor["B", "K", "T", "E"],
    keep: Tensor["S", "T", torch.bool],
) -> tuple[Tensor["B", "H", "S", "E"], Tensor["B", "H", "S"]]:
    return ops.flash_attention(2 * q, k, v, keep, is_causal=True, return_lse=True)


def test_inside_a_function_it_is_inlined() -> None:
    q, k, v = inputs()
    keep = chance(0.7, S, T)
    assert one_kernel([block.lower(q, k, v, keep)])
    for value, wanted in zip(block(q, k, v, keep), reference(2 * q, k, v, keep, is_causal=True), strict=True):
        assert error(value, wanted) <= LIMITS[torch.float32]
    assert block.cache_info().eager == 0


def test_wrong_heads_are_refused_when_the_function_is_defined() -> None:
    with pytest.raises(ShapeError) as refused:

        @tessera.function
        def wrong(q: Tensor["B", 6, "S", "D"], k: Tensor["B", 4, "T", "D"]) -> Tensor["B", 6, "S", "D"]:
            return ops.flash_attention(q, k, k)

    assert "6 query heads over 4 key heads" in str(refused.value)


# -- errors ---------------------------------------------------------------------------------------


def _wrong(**changes: Any) -> Callable[[], object]:
    q, k, v = inputs()
    return lambda: ops.flash_attention(**{"q": q, "k": k, "v": v, **changes})


ERRORS: dict[str, tuple[Callable[[], object], type[TesseraError], str]] = {
    "heads": (_wrong(k=floats(B, 4, T, D), v=floats(B, 4, T, E)), ShapeError, "6 query heads over 4 key heads"),
    "no heads": (_wrong(k=floats(B, 0, T, D), v=floats(B, 0, T, E)), ShapeError, "6 query heads over 0 key heads"),
    "rank": (_wrong(q=floats(S, D)), ShapeError, "queries of rank 2"),
    "width": (_wrong(q=floats(B, H, S, 0), k=floats(B, K, T, 0)), ShapeError, "width 0"),
    "widths": (_wrong(k=floats(B, K, T, D + 1)), ShapeError, "D"),
    "values": (_wrong(v=floats(B, K, T + 1, E)), ShapeError, "T"),
    "mask of rank 1": (_wrong(mask=chance(0.5, T)), ShapeError, "mask of rank 1"),
    "mask of wrong sizes": (_wrong(mask=chance(0.5, S, T + 1)), ShapeError, "T"),
    "mask of integers": (_wrong(mask=torch.ones(S, T, dtype=torch.int64)), DTypeError, "mask of dtype int64"),
    "probability": (_wrong(dropout_p=1.5), TesseraError, "dropout with probability 1.5"),
    "negative probability": (_wrong(dropout_p=-0.1), TesseraError, "from 0 to 1"),
    "window": (_wrong(window=0), TesseraError, "window of 0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_does_not_fit_is_refused(name: str) -> None:
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as refused:
        call()
    assert words in str(refused.value)


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(attention).failed == 0
