"""Ten shape mistakes and what Tessera says about them, at the moment the function is defined.

    python examples/errors.py

No tensor exists while this runs. Each mistake stands in a function of its own, because defining it raises.
"""

import sys
from collections.abc import Callable

import torch

import tessera
from tessera import Tensor


def wrong_contraction() -> None:
    """The inner dimensions of a matrix product differ: the weight is stored output first."""

    @tessera.function
    def project(x: Tensor["B", "S", "D"], w: Tensor["F", "D"]) -> Tensor["B", "S", "F"]:
        return x @ w


def wrong_broadcast() -> None:
    """One bias per position is added along the features."""

    @tessera.function
    def shift(x: Tensor["B", "S", "D"], bias: Tensor["S"]) -> Tensor["B", "S", "D"]:
        return x + bias


def swapped_dims() -> None:
    """Heads and positions are in a different order on the two sides."""

    @tessera.function
    def add_heads(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "S", "H", "D"]) -> Tensor["B", "H", "S", "D"]:
        return q + k


def missing_keepdim() -> None:
    """The mean lost its dimension, so it lines up with the wrong one."""

    @tessera.function
    def centre(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return x - x.mean(dim=-1)


def bad_reshape() -> None:
    """The heads are split off, but one factor is forgotten."""

    @tessera.function
    def split_heads(x: Tensor["B", "S", "H*K"], w: Tensor["H", "K"]) -> Tensor["B", "S", "H", "K"]:
        heads, _ = w.shape
        return x.reshape(x.shape[0], x.shape[1], heads, heads) * w


def bad_divisor() -> None:
    """An odd width has no two halves."""

    @tessera.function
    def halves(x: Tensor["B", "2*K + 1"]) -> Tensor["B", "K"]:
        first, _ = x.chunk(2, dim=-1)
        return first


def wrong_return() -> None:
    """The annotation promises the transpose of what is returned."""

    @tessera.function
    def scores(q: Tensor["S", "D"], k: Tensor["T", "D"]) -> Tensor["T", "S"]:
        return q @ k.T


@tessera.function
def scale_rows(x: Tensor["N", "D"], weight: Tensor["N"]) -> Tensor["N", "D"]:
    """A correct function, which the next mistake calls."""
    return x * weight.unsqueeze(-1)


def wrong_call() -> None:
    """A function that wants one weight a row is given one a column."""

    @tessera.function
    def scale_columns(x: Tensor["B", "F"], weight: Tensor["F"]) -> Tensor["B", "F"]:
        return scale_rows(x, weight)


def mismatched_concat() -> None:
    """Joined along the features, but the numbers of positions differ."""

    @tessera.function
    def join(x: Tensor["S", "D"], y: Tensor["T", "D"]) -> Tensor["S", "2*D"]:
        return torch.cat([x, y], dim=-1)


def bad_einsum() -> None:
    """One letter names two dimensions."""

    @tessera.function
    def attend(p: Tensor["B", "S", "T"], v: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D"]:
        return torch.einsum("bst,btd->bsd", p, v)


MISTAKES: tuple[Callable[[], None], ...] = (
    wrong_contraction,
    wrong_broadcast,
    swapped_dims,
    missing_keepdim,
    bad_reshape,
    bad_divisor,
    wrong_return,
    wrong_call,
    mismatched_concat,
    bad_einsum,
)


def diagnose(mistake: Callable[[], None]) -> tessera.TesseraError | None:
    """The error that defining a mistake raises; None when it goes unnoticed."""
    try:
        mistake()
    except tessera.TesseraError as error:
        return error
    return None


def main() -> int:
    """Print every mistake with its diagnostic; the status is the number of those that went unnoticed."""
    unnoticed = 0
    for number, mistake in enumerate(MISTAKES, 1):
        print(f"{number}. {mistake.__name__.replace('_', ' ')}: {mistake.__doc__}\n")
        error = diagnose(mistake)
        unnoticed += error is None
        print("   went unnoticed" if error is None else error.render(), end="\n\n")
    return unnoticed


if __name__ == "__main__":
    sys.exit(main())
