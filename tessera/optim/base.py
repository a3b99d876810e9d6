"""What the optimizers share: parameters gathered into lists that one kernel takes, clipping, scales, state."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tessera import DTypeError
from tessera.optim import rules

Group = dict[str, Any]


@dataclass
class Batch:
    """Parameters of one group that one kernel updates: ``lists`` are those, their gradients and their states, ``steps``
    how often each was updated, ``marks`` what else they have in common.
    """

    group: Group
    marks: tuple[Any, ...]
    lists: tuple[list[torch.Tensor], ...]
    params: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Clip:
    """How gradients are changed before they are used: see ``rules``."""

    factor: torch.Tensor | None = None
    inverse: float = 1.0
    limit: float = 0.0
    clips: bool = False

    @property
    def numbers(self) -> tuple[float, float, bool, bool]:
        """The arguments of a rule from ``inverse`` to ``clips``."""
        return self.inverse, self.limit, self.inverse != 1.0, self.clips


class Optimizer(torch.optim.Optimizer):
    """A torch optimizer whose step is a Tessera function over all parameters at once.

    Subclasses say which states a parameter has (``states``) and which function updates a batch (``update``).
    """

    #: GradScaler hands over the scale of the loss, and whether a gradient is infinite.
    _step_supports_amp_scaling = True
    #: States of the shape of the parameter, which ``load_state_dict`` keeps in their dtype.
    NAMES: tuple[str, ...] = ()

    def __init__(
        self, params: Any, defaults: dict[str, Any], max_norm: float | None, error_if_nonfinite: bool,
        state_dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        _refuse(defaults)
        if max_norm is not None and not max_norm >= 0.0:
            raise ValueError(f"max_norm is {max_norm}, not 0 or more")
        if state_dtype is not None and not state_dtype.is_floating_point:
            raise ValueError(f"state_dtype is {state_dtype}, not a floating dtype")
        self.max_norm = max_norm
        self.error_if_nonfinite = error_if_nonfinite
        self.state_dtype = state_dtype
        self.grad_norm: torch.Tensor | None = None
        super().__init__(params, defaults)

    # -- what subclasses say

    def states(self, p: torch.Tensor, group: Group) -> tuple[tuple[Any, ...], tuple[torch.Tensor, ...]]:
        """What a parameter must have in common with others of its batch, and its states."""
        raise NotImplementedError

    def update(self, batch: Batch, clip: Clip) -> torch.Tensor | None:
        """Update the parameters of a batch; gives the norm of their gradients if ``clip`` asks for it."""
        raise NotImplementedError

    # -- a step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient; gives the loss of ``closure``, which is called first.

        The gradients keep their values: clipping and scaling happen on the way. Raises DTypeError for complex and
        sparse gradients, and RuntimeError for a norm that is not finite where ``error_if_nonfinite`` was asked for.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    def _step(self) -> None:
        found = getattr(self, "found_inf", None)
        if found is not None and float(found):
            return
        scale = getattr(self, "grad_scale", None)
        inverse = 1.0 if scale is None else 1.0 / float(scale)
        batches = self._batches()
        if not batches:
            return
        clip = self._clip(batches, inverse)
        for batch in batches:
            norm = self.update(batch, clip)
            if norm is not None:
                self.grad_norm = norm

    def _clip(self, batches: Sequence[Batch], inverse: float) -> Clip:
        """Of one batch the kernel finds the norm itself; of several it must be known before."""
        if self.max_norm is None:
            return Clip(None, inverse)
        if len(batches) == 1 and not self.error_if_nonfinite:
            return Clip(None, inverse, float(self.max_norm), True)
        self.grad_norm = total = _norm(batches, inverse)
        if self.error_if_nonfinite and not bool(torch.isfinite(total)):
            raise RuntimeError(f"the norm of the gradients is {float(total)}, so they cannot be clipped")
        return Clip(torch.clamp(self.max_norm / (total + 1e-6), max=1.0), inverse)

    def _batches(self) -> list[Batch]:
        """The parameters that have gradients, together where one kernel can update them."""
        found: dict[Hashable, Batch] = {}
        for number, group in enumerate(self.param_groups):
            for p in group["params"]:
                g = p.grad
                if g is None:
                    continue
                _check(p, g)
                marks, states = self.states(p, group)
                row = lined_up((p, g, *states))
                key = (number, marks, p.device, *(x.dtype for x in row))
                batch = found.get(key)
                if batch is None:
                    batch = found[key] = Batch(group, marks, tuple([] for _ in row))
                batch.params.append(p)
                for members, x in zip(batch.lists, row, strict=True):
                    members.append(x)
        return list(found.values())

    def fresh(self, p: torch.Tensor) -> torch.Tensor:
        """A state of a parameter, all zeros."""
        return torch.zeros_like(p, dtype=self.state_dtype, memory_format=torch.preserve_format)

    # -- state

    def __getstate__(self) -> dict[str, Any]:
        own = ("max_norm", "error_if_nonfinite", "state_dtype", "grad_norm")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            for p in group["params"]:
                step = self.state.get(p, {}).get("step")
                if step is not None:
                    self.state[p]["step"] = torch.tensor(float(step), dtype=_step_dtype())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Take over the state of this optimizer or of torch's of the same name.

        States are cast to the dtype of their parameter, as torch does it, or to ``state_dtype``.
        """
        super().load_state_dict(dict(state_dict))
        if self.state_dtype is None:
            return
        saved = (n for group in state_dict["param_groups"] for n in group["params"])
        for number, p in zip(saved, (p for g in self.param_groups for p in g["params"]), strict=True):
            given = state_dict["state"].get(number, {})
            for name in self.NAMES:
                if isinstance(given.get(name), torch.Tensor):
                    self.state[p][name] = given[name].to(p.device, self.state_dtype, copy=True)


def count(state: dict[str, Any]) -> float:
    """How often a parameter with such a state was updated; begins at 0."""
    step = state.get("step")
    if step is None:
        step = state["step"] = torch.tensor(0.0, dtype=_step_dtype())
    return float(step)


def lined_up(row: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Tensors of one shape so that their elements pair up one after the other in memory.

    What is dense in another order than that of the dims, like channels-last weights, is seen as it lies in memory.
    """
    first = row[0]
    if first.is_contiguous():
        return row
    steps = first.stride()
    if any(x.stride() != steps for x in row[1:]) or not _is_dense(first):
        return row
    return tuple(x.as_strided((x.numel(),), (1,)) for x in row)


def _is_dense(x: torch.Tensor) -> bool:
    expected = 1
    for step, size in sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n != 1):
        if step != expected:
            return False
        expected *= size
    return True


def _norm(batches: Iterable[Batch], inverse: float) -> torch.Tensor:
    """The norm of all gradients, those of different dtypes and devices together."""
    lists: dict[Hashable, list[torch.Tensor]] = {}
    for batch in batches:
        for g in batch.lists[1]:
            lists.setdefault((g.dtype, g.device), []).append(g)
    norms = [rules.norm(members, inverse) for members in lists.values()]
    if len(norms) == 1:
        return norms[0]
    return torch.linalg.vector_norm(torch.stack([n.to(norms[0].device, torch.float64) for n in norms])).to(
        torch.promote_types(norms[0].dtype, norms[-1].dtype)
    )


def _check(p: torch.Tensor, g: torch.Tensor) -> None:
    if g.layout is not torch.strided:
        raise DTypeError("a sparse gradient: this optimizer takes dense ones", code="TSR0301",
                         helps=["`torch.optim.SparseAdam` takes sparse ones"])  # fmt: skip
    if p.is_complex():
        raise DTypeError(f"a parameter of dtype `{p.dtype}`", code="TSR0301",
                         helps=["optimize `torch.view_as_real` of it"])  # fmt: skip


def _refuse(defaults: Mapping[str, Any]) -> None:
    """Arguments of torch's optimizers that ask for what this one is not."""
    if defaults.get("differentiable"):
        raise ValueError("differentiable=True: the step writes to the parameters, and has no gradient")
    if defaults.get("capturable"):
        raise ValueError("capturable=True: the step reads the number of steps and the learning rate as Python numbers")
    if defaults.get("fused") and defaults.get("foreach"):
        raise ValueError("fused=True and foreach=True: at most one of them")


def at_least(name: str, value: Any, low: float = 0.0) -> None:
    """Refuse a number below a bound, and a tensor of several. Raises ValueError."""
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        raise ValueError(f"{name} is a tensor of {value.numel()} elements, not of one")
    if not float(value) >= low:
        raise ValueError(f"{name} is {float(value)}, not {low:g} or more")


def betas_of(betas: Sequence[Any]) -> tuple[float, float]:
    """Two decay rates from 0 up to 1. Raises ValueError."""
    if len(betas) != 2:
        raise ValueError(f"betas are {len(betas)} numbers, not two")
    for n, beta in enumerate(betas):
        if not 0.0 <= float(beta) < 1.0:
            raise ValueError(f"betas[{n}] is {float(beta)}, not from 0 up to 1")
    return float(betas[0]), float(betas[1])


def _step_dtype() -> torch.dtype:
    return torch.float64 if torch.get_default_dtype() is torch.float64 else torch.float32
