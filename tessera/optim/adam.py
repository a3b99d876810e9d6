"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

import torch

from tessera.optim import rules
from tessera.optim.base import Batch, Clip, Group, Optimizer, Rule, at_least, betas_of


class Adam(Optimizer):
    """Adam, as ``torch.optim.Adam``: one kernel updates all parameters of a group and dtype.

    Arguments, groups and state are torch's; a state loads into torch's optimizer and back. Beyond those:

    - ``max_norm``: clip the gradients by their norm over all groups, as ``clip_grad_norm_`` before the step would; the
      gradients themselves keep their values. The norm is in ``grad_norm`` after a step; ``inf`` only measures.
    - ``error_if_nonfinite``: raise RuntimeError, and update nothing, when that norm is infinite or NaN.
    - ``state_dtype``: the dtype of the averages, that of the parameter unless given; float32 suits bfloat16 weights.

    ``foreach`` and ``fused`` are taken for torch's sake and mean nothing here. Raises ValueError for numbers out of
    range, ``differentiable`` and ``capturable``.

    Source: Kingma and Ba 2015, arXiv:1412.6980; ``amsgrad``, Reddi et al. 2018, arXiv:1904.09237.

    >>> import torch
    >>> from tessera import optim
    >>> w = torch.nn.Parameter(torch.ones(3))
    >>> optimizer = optim.Adam([w], lr=0.1, max_norm=1.0)
    >>> (w * 2).sum().backward()
    >>> optimizer.step()
    >>> w.detach(), optimizer.grad_norm
    (tensor([0.9000, 0.9000, 0.9000]), tensor(3.4641))
    """

    NAMES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self, params: Any, lr: float | torch.Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0, amsgrad: bool = False, *, foreach: bool | None = None,
        maximize: bool = False, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        decoupled_weight_decay: bool = False, max_norm: float | None = None, error_if_nonfinite: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            at_least(name, value)
        defaults = {
            "lr": lr, "betas": betas_of(betas), "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "maximize": maximize, "foreach": foreach, "capturable": capturable, "differentiable": differentiable,
            "fused": fused, "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults, max_norm, error_if_nonfinite, state_dtype)

    def names(self, group: Group) -> tuple[str, ...]:
        return ("step", *self.NAMES) if group["amsgrad"] else ("step", *self.NAMES[:2])

    def update(self, batch: Batch, clip: Clip) -> torch.Tensor | None:
        group = batch.group
        beta1, beta2 = map(float, group["betas"])
        rate, decay, done = float(group["lr"]), float(group["weight_decay"]), batch.done + 1.0
        size, root = rate / (1 - beta1**done), (1 - beta2**done) ** -0.5
        keep, decay = (1 - rate * decay, 0.0) if group["decoupled_weight_decay"] else (1.0, decay)
        rule: Rule = rules.amsgrad if group["amsgrad"] else rules.adam
        return rule(
            *batch.lists, clip.factor, keep, decay, beta1, beta2, size, root, float(group["eps"]), *clip.numbers,
            group["maximize"], decay != 0.0,
        )  # fmt: skip


class AdamW(Adam):
    """AdamW, as ``torch.optim.AdamW``: ``Adam`` with weight decay that is not part of the gradient.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.

    >>> import torch
    >>> from tessera import optim
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = optim.AdamW([w], lr=0.1, weight_decay=0.5)
    >>> w.grad = torch.zeros(2)
    >>> optimizer.step()
    >>> w.detach()
    tensor([0.9500, 0.9500])
    """

    def __init__(
        self, params: Any, lr: float | torch.Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
        foreach: bool | None = None, capturable: bool = False, differentiable: bool = False,
        fused: bool | None = None, max_norm: float | None = None, error_if_nonfinite: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=True, max_norm=max_norm,
            error_if_nonfinite=error_if_nonfinite, state_dtype=state_dtype,
        )  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # what older checkpoints of torch lack or have wrong
            group["decoupled_weight_decay"] = True
