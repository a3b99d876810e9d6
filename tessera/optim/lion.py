"""Lion."""

from __future__ import annotations

from typing import Any

import torch

from tessera.optim import rules
from tessera.optim.base import Batch, Clip, Group, Optimizer, Rule, at_least, betas_of


class Lion(Optimizer):
    """Lion: the sign of an averaged gradient, with weight decay that is not part of it. One state, ``exp_avg``.

    Arguments are as for ``AdamW``; learning rates are 3 to 10 times smaller as a rule, weight decays as much larger.

    Source: Chen et al. 2023, arXiv:2302.06675.

    >>> import torch
    >>> from tessera import optim
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> optimizer = optim.Lion([w], lr=0.1)
    >>> w.grad = torch.tensor([5.0, 0.001])
    >>> optimizer.step()
    >>> w.detach()
    tensor([ 0.9000, -1.1000])
    """

    NAMES = ("exp_avg",)

    def __init__(
        self, params: Any, lr: float | torch.Tensor = 1e-4, betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None, max_norm: float | None = None,
        error_if_nonfinite: bool = False, state_dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        at_least("lr", lr)
        at_least("weight_decay", weight_decay)
        defaults = {
            "lr": lr, "betas": betas_of(betas), "weight_decay": weight_decay, "maximize": maximize,
            "foreach": foreach, "capturable": capturable, "differentiable": differentiable, "fused": fused,
        }  # fmt: skip
        super().__init__(params, defaults, max_norm, error_if_nonfinite, state_dtype)

    def names(self, group: Group) -> tuple[str, ...]:
        return self.NAMES

    def update(self, batch: Batch, clip: Clip) -> torch.Tensor | None:
        group = batch.group
        beta1, beta2 = map(float, group["betas"])
        rate = float(group["lr"])
        keep = 1 - rate * float(group["weight_decay"])
        rule: Rule = rules.lion
        return rule(*batch.lists, clip.factor, rate, keep, beta1, beta2, *clip.numbers, group["maximize"])
