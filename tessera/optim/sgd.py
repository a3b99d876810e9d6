"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import torch

from tessera.optim import rules
from tessera.optim.base import Batch, Clip, Group, Optimizer, Rule, at_least


class SGD(Optimizer):
    """Gradient descent with momentum, as ``torch.optim.SGD``; what goes beyond torch's is described at ``Adam``.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning".

    >>> import torch
    >>> from tessera import optim
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = optim.SGD([w], lr=0.1, momentum=0.9)
    >>> w.grad = torch.ones(2)
    >>> optimizer.step()
    >>> optimizer.step()
    >>> w.detach()
    tensor([0.7100, 0.7100])
    """

    NAMES = ("momentum_buffer",)

    def __init__(
        self, params: Any, lr: float | torch.Tensor = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False, foreach: bool | None = None,
        differentiable: bool = False, fused: bool | None = None, max_norm: float | None = None,
        error_if_nonfinite: bool = False, state_dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            at_least(name, value)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov=True needs a momentum and no dampening")
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "maximize": maximize, "foreach": foreach, "differentiable": differentiable,
            "fused": fused,
        }  # fmt: skip
        super().__init__(params, defaults, max_norm, error_if_nonfinite, state_dtype)

    def names(self, group: Group) -> tuple[str, ...]:
        return self.NAMES if group["momentum"] else ()

    def update(self, batch: Batch, clip: Clip) -> torch.Tensor | None:
        group = batch.group
        rate, decay, keep = (float(group[name]) for name in ("lr", "weight_decay", "momentum"))
        rule: Rule = rules.momentum if keep else rules.descent
        if not keep:
            return rule(*batch.lists, clip.factor, rate, decay, *clip.numbers, group["maximize"], decay != 0.0)
        return rule(
            *batch.lists, clip.factor, rate, decay, keep, 1 - float(group["dampening"]), *clip.numbers,
            group["maximize"], decay != 0.0, group["nesterov"], batch.fresh,
        )  # fmt: skip
