"""Whether a checkpoint fits a module: every mismatch at once, by dimension name, before anything is copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tessera.diag import CheckpointError, Label, caller_span
from tessera.frontend.annotation import Lead, TensorAnnotation
from tessera.frontend.receiver import declared

#: Mismatches that an error lists; of more, the number is given.
MOST_LISTED = 40


@dataclass(frozen=True)
class Held:
    """One entry of a module's state: its tensor, what the class declares of it, and whether a loader of its own reads
    the module's entries.
    """

    tensor: torch.Tensor
    annotation: TensorAnnotation | None
    custom: bool


def state_of(module: torch.nn.Module) -> dict[str, Held]:
    """What the module expects of a checkpoint, by name."""
    owners = dict(module.named_modules(remove_duplicate=False))
    found: dict[str, Held] = {}
    for key, tensor in module.state_dict(keep_vars=True).items():
        prefix, _, name = key.rpartition(".")
        owner = owners.get(prefix)
        if isinstance(tensor, torch.Tensor):
            hint = None if owner is None else declared(type(owner)).get(name)
            found[key] = Held(tensor, None if hint is None else hint.annotation, _is_custom(owner))
    return found


def _is_custom(owner: torch.nn.Module | None) -> bool:
    if owner is None:
        return True
    own = type(owner)._load_from_state_dict is not torch.nn.Module._load_from_state_dict
    return own or bool(owner._load_state_dict_pre_hooks)


def check(module: torch.nn.Module, state: Mapping[str, Any], strict: bool, assign: bool) -> None:
    """Raise CheckpointError (TSR0611) with everything about a checkpoint that does not fit the module.

    Missing and unexpected names count where ``strict``; a module that has its own way of loading, or hooks for it, may
    know better about its names.
    """
    here = state_of(module)
    customs = tuple(prefix(key) for key, held in here.items() if held.custom)
    wrong: list[str] = []
    for key, held in here.items():
        if key in state:
            wrong += _differences(key, held, state[key], assign)
    tensors = len({w.partition(':')[0] for w in wrong})
    shown = len(wrong)
    if strict:
        wrong += [f"`{key}` is missing in the checkpoint" for key, held in here.items() if _missing(key, held, state)]
        known = here.keys() | module.state_dict().keys()
        extra = (key for key in state if key not in known and not key.startswith(customs))
        wrong += [f"`{key}` is not known here{_meant(key, here, state)}" for key in extra]
    names = len(wrong) - shown
    if not wrong:
        return
    if len(wrong) > MOST_LISTED:
        wrong[MOST_LISTED:] = [f"and {len(wrong) - MOST_LISTED} more"]
    span = caller_span()
    raise CheckpointError(
        f"the checkpoint does not fit `{type(module).__name__}`: {_counts(tensors, names)}",
        code="TSR0611", labels=() if span is None else (Label(span, "loaded here", True),), notes=wrong,
        helps=_helps(state),
    )  # fmt: skip


def _counts(tensors: int, names: int) -> str:
    """How much is wrong, in one line."""
    parts = [f"{tensors} tensors differ" if tensors > 1 else "1 tensor differs"] * bool(tensors)
    parts += [f"{names} names are" if names > 1 else "1 name is"] * bool(names)
    parts[-1] += " missing or not known" if names else ""
    return ", ".join(parts)


def prefix(key: str) -> str:
    """The part of a name that says in which module it is, with its dot.

    >>> prefix("layers.0.weight"), prefix("weight")
    ('layers.0.', '')
    """
    return key[: key.rfind(".") + 1]


def _missing(key: str, held: Held, state: Mapping[str, Any]) -> bool:
    return key not in state and not held.custom


def _differences(key: str, held: Held, given: Any, assign: bool) -> Iterator[str]:
    """What is wrong with one entry, in the words of its annotation."""
    if not isinstance(given, torch.Tensor):
        yield f"`{key}` is a {type(given).__name__} in the checkpoint"
        return
    mine = held.tensor
    if torch.nn.parameter.is_lazy(mine):
        return
    if not assign and _kind(mine.dtype) != _kind(given.dtype):
        yield f"`{key}`: {_plain(mine.dtype)} here and {_plain(given.dtype)} in the checkpoint"
    if mine.dim() != given.dim():
        yield f"`{key}`: shape {list(mine.shape)} here and {list(given.shape)} in the checkpoint"
        return
    names = _names(held.annotation, mine.dim())
    for axis, (have, there) in enumerate(zip(mine.shape, given.shape, strict=True)):
        if have != there:
            yield f"`{key}`: {names.get(axis, f'dim {axis}')} is {have} here and {there} in the checkpoint"


def _kind(dtype: torch.dtype) -> str:
    """What a conversion keeps: numbers of one kind may be stored wider or narrower."""
    return "complex" if dtype.is_complex else "floating" if dtype.is_floating_point else "integer"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _names(a: TensorAnnotation | None, rank: int) -> dict[int, str]:
    """The declared names by axis."""
    if a is None or a.dims is None:
        return {}
    extra = rank - len(a.fixed)
    if extra < 0 or (extra and a.lead is None):
        return {}
    found: dict[int, str] = {}
    axis = 0
    for d in a.dims:
        if isinstance(d, Lead):
            axis += extra
            continue
        if not d.is_const:
            found[axis] = str(d)
        axis += 1
    return found


def _meant(key: str, here: Mapping[str, Held], state: Mapping[str, Any]) -> str:
    """The missing name that an unknown one ends with, or that ends with it."""
    close = [k for k in here if k not in state and (k.endswith(f".{key}") or key.endswith(f".{k}"))]
    return f"; `{close[0]}` is missing" if len(close) == 1 else ""


def _helps(state: Mapping[str, Any]) -> list[str]:
    """A prefix that one side has in front of every name, as wrappers put it there."""
    for lead in ("module.", "_orig_mod.", "model."):
        if state and all(isinstance(k, str) and k.startswith(lead) for k in state):
            return [f"the names begin with `{lead}`: `{{k.removeprefix({lead!r}): v for k, v in state.items()}}`"]
    return []
