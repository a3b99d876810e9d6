"""Streams on odd contents, with chance, with threads; and what looks like a stream and is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tests.ops.stream_programs import INF, PROGRAMS, Draw, alibi, cast, causal, full, guarded, positions, results

NAN = float("nan")


def compiled(f: Callable[..., Any]) -> Any:
    return tessera.function(strict=True)(f)


def forms(f: Any, *args: Any) -> list[str]:
    return [k.form for k in f.lower(*args).kernels]


def same(got: Any, exact: Any, bound: float = 2e-5) -> None:
    """NaN and infinite where float64 is, and near it elsewhere."""
    for g, x in zip(results(got), results(exact), strict=True):
        assert g.shape == x.shape
        assert g.is_floating_point() == x.is_floating_point()
        finite = x.double()[x.double().isfinite()].abs()
        size = max(1.0, float(finite.max())) if finite.numel() else 1.0
        torch.testing.assert_close(g.double(), x.double(), rtol=bound, atol=bound * size, equal_nan=True)


def qkv(s: int = 37, t: int = 150, d: int = 8, e: int = 5) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(n, m, generator=random) for n, m in ((s, d), (t, d), (t, e))]


def doubles(args: list[torch.Tensor]) -> tuple[Any, ...]:
    return cast(tuple(args), torch.float64)


# -- contents


def masked(q, k, v):  # type: ignore[no-untyped-def]
    """The first rows have no key."""
    s = q @ k.mT
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i - 3, -INF), -1) @ v


def masked_weights(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    i, j = positions(s)
    s = s.masked_fill(j > i - 3, -INF)
    return torch.exp(s - s.amax(-1, keepdim=True)) @ v


def masked_sums(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    i, j = positions(s)
    s = s.masked_fill(j > i - 3, -INF)
    return torch.exp(s - s.amax(-1, keepdim=True)).sum(-1), torch.logsumexp(s, -1)


def masked_clamped(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    i, j = positions(s)
    s = s.masked_fill(j > i - 3, -INF)
    p = torch.exp(s - s.amax(-1, keepdim=True))
    return p @ v / p.sum(-1, keepdim=True).clamp(min=1)


def masked_zeroed(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    i, j = positions(s)
    return torch.nan_to_num(torch.softmax(s.masked_fill(j > i - 3, -INF), -1)) @ v


def masked_by_tensor(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return torch.softmax(torch.where(k[:, 0] > 0.5, s, -INF), -1) @ v


def masked_to_large(q, k, v):  # type: ignore[no-untyped-def]
    """A large number instead of -inf: rows without a key average all."""
    s = q @ k.mT
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i - 3, -1e9), -1) @ v


def summed(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    i, j = positions(s)
    return torch.where(j <= i - 3, s, 0.0) @ v


MASKED = [masked, masked_weights, masked_sums, masked_clamped, masked_zeroed, masked_by_tensor, masked_to_large, summed]


@pytest.mark.parametrize("f", MASKED, ids=lambda f: f.__name__)
def test_rows_without_keys(f: Callable[..., Any]) -> None:
    args = qkv(s=70, t=150)
    same(compiled(f)(*args), f(*doubles(args)))
    args[1] = -args[1].abs()  # no key at all fits
    same(compiled(f)(*args), f(*doubles(args)))


def protected(q, k, v):  # type: ignore[no-untyped-def]
    """The choice keeps 0/0 out."""
    s = q @ k.mT
    return torch.where(s > 0, s / s.relu().sum(-1, keepdim=True), 0.0) @ v


def protected_rows(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    total = s.relu().sum(-1, keepdim=True)
    return torch.where(total > 0, s.relu() / total, 0.0) @ v


def masked_again(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    i, j = positions(s)
    p = torch.softmax(s.masked_fill(j > i - 3, -INF), -1)
    return p.masked_fill(j > i - 3, 0.0) @ v, p.masked_fill(p.isnan(), 0.0) @ v


@pytest.mark.parametrize("f", [protected, protected_rows, masked_again], ids=lambda f: f.__name__)
def test_choices_that_protect(f: Callable[..., Any]) -> None:
    args = qkv(s=70, t=150)
    args[0][5] = -1.0
    args[1] = args[1].abs()
    same(compiled(f)(*args), f(*doubles(args)))


def test_guarded_rows_are_zero() -> None:
    args = cast(PROGRAMS[guarded](Draw(S=9, T=130)), torch.float32)
    found = guarded(*args)
    assert not found[..., :3, :].any() and found.isfinite().all() and found[..., 3:, :].any()


def plain(q, k, v):  # type: ignore[no-untyped-def]
    return torch.softmax(q @ k.mT, -1) @ v


def several(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return torch.logsumexp(s, -1), s.amax(-1), s.amin(-1), s.sum(-1)


#: Where one key has these contents.
KEYS = {
    "NaN": NAN, "inf": INF, "-inf": -INF, "largest": 3e38, "1e4": 1e4, "-1e4": -1e4, "subnormal": 1e-40,
}  # fmt: skip


@pytest.mark.parametrize("at", [0, 5, 127, 128, 149])
@pytest.mark.parametrize("content", KEYS.values(), ids=KEYS)
def test_one_key_of_odd_contents(content: float, at: int) -> None:
    args = qkv()
    args[0] = args[0].abs() + 0.1
    args[1][at] = content if content not in (3e38,) else 1e37
    for f in (plain, several, masked):
        same(COMPILED[f](*args), results(f(*args)), 3e-4)


@pytest.mark.parametrize("at", [0, 127, 128, 149])
@pytest.mark.parametrize("content", [NAN, INF, -INF])
def test_one_value_of_odd_contents(content: float, at: int) -> None:
    args = qkv()
    args[2][at, 2] = content
    for f in (plain, masked):
        got, eager = COMPILED[f](*args), f(*args)
        left_out = f is masked  # a weight of 0 times NaN is NaN in eager; a key that is left out is not read
        columns = [0, 1, 3, 4] if left_out else [0, 1, 2, 3, 4]
        same(got[3:, columns], eager[3:, columns], 3e-4)


COMPILED = {f: compiled(f) for f in (plain, several, masked)}


@pytest.mark.parametrize("scale", [1e-20, 1e2, 1e4, 1e6])
def test_scores_of_any_size(scale: float) -> None:
    args = qkv()
    args[0] *= scale
    same(COMPILED[plain](*args), plain(*args), 3e-2 if scale > 1e2 else 3e-4)  # where exp amplifies rounding
    found = COMPILED[plain](*args)
    assert found.isfinite().all() and float(found.abs().max()) <= float(args[2].abs().max())


def test_scores_that_rise_and_fall_from_block_to_block() -> None:
    """The largest score comes in the first, in the last, in every block anew."""
    q = torch.ones(33, 1, dtype=torch.float64)
    v = torch.randn(600, 4, dtype=torch.float64)
    steps = torch.arange(600, dtype=torch.float64)
    for keys in (steps * 10, -steps * 10, steps * 0, (steps % 7) * 100, -(steps - 300).abs() * 3):
        same(compiled(plain)(q, keys[:, None], v), plain(q, keys[:, None], v), 1e-12)


def reciprocal_of_the_largest(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return torch.exp(s - 1 / s.amax(-1, keepdim=True)).sum(-1)


def largest_of_another(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return torch.exp(s - (-s).amax(-1, keepdim=True)) @ v


@pytest.mark.parametrize(
    ("f", "first", "later"), [(reciprocal_of_the_largest, -1e-3, 5.0), (largest_of_another, 100.0, -200.0)]
)
def test_nothing_overflows_that_would_not(f: Callable[..., Any], first: float, later: float) -> None:
    k = torch.full((300, 1), first)
    k[200] = later
    args = torch.ones(3, 1), k, torch.randn(300, 4)
    same(compiled(f)(*args), f(*args), 1e-4)


# -- chance


def dropped(q, k, v):  # type: ignore[no-untyped-def]
    return F.dropout(torch.softmax(q @ k.mT, -1), 0.25) @ v


def test_dropout() -> None:
    q, k, _ = qkv(s=64, t=200)
    f, unit = compiled(dropped), torch.eye(200)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return f(q, k, unit)

    one, again, other = run(0), run(0), run(1)
    assert forms(f, q, k, unit) == ["stream"]
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert 0.23 < float((one == 0).double().mean()) < 0.27
    kept = one != 0
    same(one[kept], (torch.softmax(q.double() @ k.double().mT, -1) / 0.75)[kept])


# -- threads


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("f", [full, causal, alibi], ids=lambda f: f.__name__)
def test_one_thread_and_two_give_the_same_bits(f: Any, threads: Callable[[int], None]) -> None:
    args = cast(PROGRAMS[f](Draw(S=131, T=300)), torch.float32)
    threads(1)
    one = f(*args)
    threads(2)
    assert torch.equal(f(*args), one)


def test_a_batch_gives_what_its_parts_give() -> None:
    args = cast(PROGRAMS[causal](Draw(S=131, T=300)), torch.float32)
    whole = causal(*args)
    for b in range(2):
        assert torch.equal(causal(*(x[b : b + 1] for x in args)), whole[b : b + 1])
    for s in (1, 17, 64):
        assert torch.equal(causal(args[0][:, :, :s].contiguous(), *args[1:]), whole[:, :, :s])


# -- none, or only in part


def weights_too(q, k, v):  # type: ignore[no-untyped-def]
    p = torch.softmax(q @ k.mT, -1)
    return p @ v, p


def other_axis(q, k, v):  # type: ignore[no-untyped-def]
    return torch.softmax(q @ k.mT, -2) @ v


def normalised_scores(q, k, v):  # type: ignore[no-untyped-def]
    return F.layer_norm(q @ k.mT, (k.shape[0],)) @ v


def below_mean(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return (s - s.mean(-1, keepdim=True)).amax(-1)


def around_mean(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return torch.exp(s - s.mean(-1, keepdim=True)).sum(-1)


def around_least(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return torch.exp((s - s.amin(-1, keepdim=True)) * 0.1).sum(-1)


def running_scores(q, k, v):  # type: ignore[no-untyped-def]
    return (q @ k.mT).cumsum(-1) @ v


def both_axes(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return s.sum(), s.amax()


def rows_and_columns(q, k, v):  # type: ignore[no-untyped-def]
    s = torch.sigmoid(q @ k.mT)
    return s.sum(-1), s.sum(-2)


def twice(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return torch.softmax(s, -1) @ v, torch.sigmoid(s) @ v.flip(-1)


def variance(q, k, v):  # type: ignore[no-untyped-def]
    return (q @ k.mT).var(-1), (q @ k.mT).std(-1)


def sorted_scores(q, k, v):  # type: ignore[no-untyped-def]
    return (q @ k.mT).sort(-1)[0] @ v


def one_of_the_scores(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    return torch.softmax(s, -1) @ v + s[:, :1]


def turned(q, k, v):  # type: ignore[no-untyped-def]
    s = (q @ k.mT).flip(-1)
    return torch.softmax(s, -1) @ v


def shared_mask(q, k, v):  # type: ignore[no-untyped-def]
    keep = (torch.arange(q.shape[0])[:, None] + torch.arange(k.shape[0])) % 3 != 0
    a = torch.softmax((q @ k.mT).masked_fill(~keep, -INF), -1) @ v
    b = torch.softmax((q @ (2 * k).mT).masked_fill(~keep, -INF), -1) @ v
    return a, b, keep.sum(-1)


def scores_of_scores(q, k, v):  # type: ignore[no-untyped-def]
    o = torch.softmax(q @ k.mT, -1) @ v
    return torch.softmax(o @ v.mT, -1) @ k


def normalised_twice(q, k, v):  # type: ignore[no-untyped-def]
    return torch.softmax(torch.softmax(q @ k.mT, -1), -1) @ v


def weight_of_values(q, k, v):  # type: ignore[no-untyped-def]
    """The second operand comes from the first contraction as well."""
    s = q @ k.mT
    return torch.softmax(s, -1) @ s.mT


def filled_positions(q, k, v):  # type: ignore[no-untyped-def]
    s = q @ k.mT
    i, j = positions(s)
    s = torch.where(j <= i - 5, 0.0, s)
    return s.argmax(-1), s.argmin(-1), s.clamp(-1, 1).max(-1)[1]


def views_of_output(q, k, v):  # type: ignore[no-untyped-def]
    o = torch.softmax(q @ k.mT, -1) @ v
    return o.mT * 2, o + o.flip(-2), o[1:] * 2, o - o.mean(-1, keepdim=True)


NOT_ONE = [weights_too, other_axis, normalised_scores, below_mean, around_mean, around_least, running_scores, both_axes,
           rows_and_columns, variance, sorted_scores, turned, normalised_twice, weight_of_values]  # fmt: skip
IN_PART = [twice, one_of_the_scores, shared_mask, scores_of_scores, views_of_output, filled_positions]


@pytest.mark.parametrize("f", [*NOT_ONE, *IN_PART], ids=lambda f: f.__name__)
def test_what_is_not_one_sweep_is_still_right(f: Callable[..., Any]) -> None:
    args = [x.double() for x in qkv()]
    fused = compiled(f)
    for got, want in zip(results(fused(*args)), results(f(*args)), strict=True):
        same(got, want, 1e-11)


#: Folds that cannot follow those they depend on.
FOLLOWERS = [normalised_scores, below_mean, around_mean, around_least, running_scores, sorted_scores, normalised_twice]


@pytest.mark.parametrize("f", FOLLOWERS, ids=lambda f: f.__name__)
def test_what_cannot_follow_is_no_single_stream(f: Callable[..., Any]) -> None:
    fused, args = compiled(f), qkv()
    fused(*args)
    lowered = fused.lower(*args)
    assert [k.form for k in lowered.kernels] != ["stream"] or lowered.calls


def test_scores_that_are_given_back_are_made_once() -> None:
    fused, args = compiled(weights_too), qkv()
    o, p = fused(*args)
    same((o, p), weights_too(*doubles(args)))
    assert float((p.sum(-1) - 1).abs().max()) < 1e-5


def squared(q: Any, k: Any, v: Any) -> Any:
    s = q @ k.mT
    for _ in range(30):
        s = s * s
    return s @ v


def many_conditions(q: Any, k: Any, v: Any) -> Any:
    s = q @ k.mT
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
    mask = j <= i
    for _ in range(20):
        i = i + i
        mask = mask | (mask & (j <= i))
    return torch.softmax(torch.where(mask, s, float("-inf")), -1) @ v


@pytest.mark.parametrize("f", [squared, many_conditions])
def test_what_is_read_twice_costs_no_more_to_compile(f: Callable[..., Any]) -> None:
    args = [x.double() * 0.1 for x in qkv()]
    same(compiled(f)(*args), f(*args), 1e-11)
