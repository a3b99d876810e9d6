"""The participants: Tessera, eager torch, `torch.compile`, JAX; each as a call without arguments."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable

import torch

from benchmarks.cases import Case
from benchmarks.job import THREADS

Call = Callable[[], object]


def installed() -> tuple[str, ...]:
    """The peers that this environment has, in the order of the columns."""
    jax = importlib.util.find_spec("jax") is not None
    return ("eager", "compile", "jax") if jax else ("eager", "compile")


def limit_threads() -> None:
    """Two threads for torch, and with it for Tessera; XLA takes as many as the process has cores."""
    torch.set_num_threads(THREADS)


def to_jax(value: object) -> object:
    """A torch tensor as a JAX array; anything else as it is."""
    import jax.numpy as jnp

    return jnp.asarray(value.numpy()) if isinstance(value, torch.Tensor) else value


def call_of(peer: str, case: Case, arguments: tuple[object, ...]) -> Call:
    """A call that computes a case on given torch arguments and returns when the result is there.

    Nothing is compiled yet. Raises KeyError for an unknown peer.
    """
    return _MAKERS[peer](case, arguments)


def _tessera(case: Case, arguments: tuple[object, ...]) -> Call:
    return lambda: case.function(*arguments)


def _eager(case: Case, arguments: tuple[object, ...]) -> Call:
    return lambda: case.torch(*arguments)


def _compile(case: Case, arguments: tuple[object, ...]) -> Call:
    compiled = torch.compile(case.torch)
    return lambda: compiled(*arguments)


def _jax(case: Case, arguments: tuple[object, ...]) -> Call:
    import jax

    jitted = jax.jit(case.jax)
    converted = tuple(to_jax(value) for value in arguments)
    return lambda: jax.block_until_ready(jitted(*converted))


_MAKERS: dict[str, Callable[[Case, tuple[object, ...]], Call]] = {
    "tessera": _tessera,
    "eager": _eager,
    "compile": _compile,
    "jax": _jax,
}


def prepare(names: Iterable[str], case: Case, arguments: tuple[object, ...]) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of the peers that can run the case, each called once, and why the others cannot."""
    calls: dict[str, Call] = {}
    failures: dict[str, str] = {}
    for name in names:
        try:
            call = call_of(name, case, arguments)
            call()
            if name == "tessera" and case.function.cache_info().eager:  # type: ignore[attr-defined]
                raise RuntimeError("ran eagerly, not compiled")
        except Exception as error:
            # A peer without its compiler must not take the others down with it.
            failures[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        else:
            calls[name] = call
    return calls, failures
