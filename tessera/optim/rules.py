"""The updates themselves: elementwise code over all elements of all parameters, which are one tensor each.

Everything is computed in float32, or in float64 beside float64, and rounded when it is stored. ``factor`` is what a
gradient is multiplied by, where that is known; with ``clips`` it comes from the norm of this very gradient.
"""

from typing import Any

import torch

import tessera
from tessera import Flat, Tensor


def _wide(x: Any) -> Any:
    """A tensor in the dtype that is computed in."""
    return x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def _gradient(
    g: Any, factor: Any, inverse: float, limit: float, scaled: bool, clips: bool, maximize: bool
) -> tuple[Any, Any]:
    """The gradient that an update sees, and its norm where that was asked for.

    ``inverse`` is one over the scale of the loss, ``limit`` the norm from which it is clipped.
    """
    g, found = _wide(g), None
    if scaled:
        g = g * inverse
    if clips:
        found = tessera.sqrt(tessera.sum(g * g))
        g = g * tessera.minimum(limit / (found + 1e-6), 1.0)
    if factor is not None:
        g = g * factor
    return (-g if maximize else g), found


@tessera.function
def norm(g: Flat["N"], inverse: float) -> Tensor[()]:
    """The Euclidean norm of a gradient."""
    g = _wide(g) * inverse
    return tessera.sqrt(tessera.sum(g * g))


def _moments(
    p: Any, g: Any, m: Any, v: Any, keep: float, decay: float, beta1: float, beta2: float, decays: bool
) -> tuple[Any, Any, Any]:
    """The parameter after the decay of its weights, and both averages with the gradient in them."""
    p = _wide(p)
    if decays:
        g = g + decay * p
    m = tessera.lerp(_wide(m), g, 1 - beta1)
    v = _wide(v) * beta2 + (1 - beta2) * (g * g)
    return p * keep, m, v


@tessera.function(updates=("p", "m", "v"))
def adam(
    p: Flat["N"], g: Flat["N"], m: Flat["N"], v: Flat["N"], factor: Tensor[()] | None,
    keep: float, decay: float, beta1: float, beta2: float, size: float, root: float, eps: float,
    inverse: float, limit: float, scaled: bool, clips: bool, maximize: bool, decays: bool,
) -> Any:  # fmt: skip
    """Adam: ``size`` is the learning rate over the bias of ``m``, ``root`` one over the square root of that of ``v``.

    ``keep`` is what remains of a parameter, ``decay`` what of it is added to the gradient where it ``decays`` so.
    """
    d, found = _gradient(g, factor, inverse, limit, scaled, clips, maximize)
    q, m1, v1 = _moments(p, d, m, v, keep, decay, beta1, beta2, decays)
    p.copy_(q - size * (m1 / (tessera.sqrt(v1) * root + eps)))
    m.copy_(m1)
    v.copy_(v1)
    return found


@tessera.function(updates=("p", "m", "v", "top"))
def amsgrad(
    p: Flat["N"], g: Flat["N"], m: Flat["N"], v: Flat["N"], top: Flat["N"], factor: Tensor[()] | None,
    keep: float, decay: float, beta1: float, beta2: float, size: float, root: float, eps: float,
    inverse: float, limit: float, scaled: bool, clips: bool, maximize: bool, decays: bool,
) -> Any:  # fmt: skip
    """As ``adam``, with the largest ``v`` so far in the place of ``v``."""
    d, found = _gradient(g, factor, inverse, limit, scaled, clips, maximize)
    q, m1, v1 = _moments(p, d, m, v, keep, decay, beta1, beta2, decays)
    most = tessera.maximum(_wide(top), v1)
    p.copy_(q - size * (m1 / (tessera.sqrt(most) * root + eps)))
    m.copy_(m1)
    v.copy_(v1)
    top.copy_(most)
    return found


@tessera.function(updates=("p",))
def descent(
    p: Flat["N"], g: Flat["N"], factor: Tensor[()] | None, rate: float, decay: float,
    inverse: float, limit: float, scaled: bool, clips: bool, maximize: bool, decays: bool,
) -> Any:  # fmt: skip
    """Gradient descent without momentum."""
    d, found = _gradient(g, factor, inverse, limit, scaled, clips, maximize)
    q = _wide(p)
    p.copy_(q - rate * (d + decay * q if decays else d))
    return found


@tessera.function(updates=("p", "m"))
def momentum(
    p: Flat["N"], g: Flat["N"], m: Flat["N"], factor: Tensor[()] | None,
    rate: float, decay: float, keep: float, take: float,
    inverse: float, limit: float, scaled: bool, clips: bool, maximize: bool, decays: bool, nesterov: bool,
    first: bool,
) -> Any:  # fmt: skip
    """Gradient descent with momentum: ``keep`` of the buffer stays, ``take`` of the gradient joins it. The first
    gradient is the buffer.
    """
    d, found = _gradient(g, factor, inverse, limit, scaled, clips, maximize)
    q = _wide(p)
    if decays:
        d = d + decay * q
    buffer = d if first else _wide(m) * keep + take * d
    p.copy_(q - rate * (d + keep * buffer if nesterov else buffer))
    m.copy_(buffer)
    return found


@tessera.function(updates=("p", "m"))
def lion(
    p: Flat["N"], g: Flat["N"], m: Flat["N"], factor: Tensor[()] | None,
    rate: float, keep: float, beta1: float, beta2: float,
    inverse: float, limit: float, scaled: bool, clips: bool, maximize: bool,
) -> Any:  # fmt: skip
    """Lion: the sign of a mixture of average and gradient; then the average takes the gradient in."""
    d, found = _gradient(g, factor, inverse, limit, scaled, clips, maximize)
    average = _wide(m)
    p.copy_(_wide(p) * keep - rate * tessera.sign(tessera.lerp(average, d, 1 - beta1)))
    m.copy_(tessera.lerp(average, d, 1 - beta2))
    return found
