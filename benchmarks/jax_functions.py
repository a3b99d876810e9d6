"""The measured functions as a user of JAX writes them; importable without JAX, callable only with it."""

from __future__ import annotations

from typing import Any

try:
    import jax
    import jax.numpy as jnp
except ImportError:  # the peer is optional
    jax = None  # type: ignore[assignment]

Array = Any

BETA1, BETA2, EPS, DECAY = 0.9, 0.999, 1e-8, 0.01


def rms_norm(x: Array, weight: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6) * weight


def add_layer_norm(x: Array, residual: Array, weight: Array, bias: Array) -> tuple[Array, Array]:
    total = x + residual
    mean = jnp.mean(total, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(total - mean), axis=-1, keepdims=True)
    return (total - mean) * jax.lax.rsqrt(variance + 1e-5) * weight + bias, total


def softmax(x: Array) -> Array:
    return jax.nn.softmax(x, axis=-1)


def swiglu_gate(gate: Array, up: Array) -> Array:
    return jax.nn.silu(gate) * up


def bias_gelu(x: Array, bias: Array) -> Array:
    return jax.nn.gelu(x + bias, approximate=True)


def rope(x: Array, cos: Array, sin: Array) -> Array:
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return x * cos[:, None] + turned * sin[:, None]


def cross_entropy(logits: Array, targets: Array) -> Array:
    logp = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.mean(jnp.take_along_axis(logp, targets[:, None], axis=-1))


def adamw(
    p: Array, grad: Array, m: Array, v: Array, lr: Array, unbias_m: Array, unbias_v: Array
) -> tuple[Array, Array, Array]:
    m = BETA1 * m + (1 - BETA1) * grad
    v = BETA2 * v + (1 - BETA2) * (grad * grad)
    update = (m * unbias_m) / (jnp.sqrt(v * unbias_v) + EPS)
    return p - lr * (update + DECAY * p), m, v


def add(x: Array, y: Array) -> Array:
    return x + y


def causal_attention(q: Array, k: Array, v: Array, scale: Array) -> Array:
    scores = jnp.einsum("bhid,bhjd->bhij", q, k) * scale
    seen = jnp.tril(jnp.ones(scores.shape[-2:], dtype=bool))
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhij,bhjd->bhid", weights, v)


def swiglu_mlp(x: Array, gate: Array, up: Array, down: Array) -> Array:
    return (jax.nn.silu(x @ gate.T) * (x @ up.T)) @ down.T


def _walk(x: Array) -> Array:
    """Positions first, as `lax.scan` takes them."""
    return jnp.moveaxis(x, 2, 0)


def linear_attention(q: Array, k: Array, v: Array, scale: Array) -> Array:
    def step(h: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        q, k, v = now
        h = h + k[..., :, None] * v[..., None, :]
        return h, jnp.einsum("bhd,bhde->bhe", q * scale, h)

    first = jnp.zeros((*q.shape[:2], q.shape[3], v.shape[3]), q.dtype)
    return jax.lax.scan(step, first, (_walk(q), _walk(k), _walk(v)))[1]


def gated_linear_attention(q: Array, k: Array, v: Array, g: Array, scale: Array) -> tuple[Array, Array]:
    def step(h: Array, now: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        q, k, v, g = now
        h = h * jnp.exp(g)[..., None] + k[..., :, None] * v[..., None, :]
        return h, jnp.einsum("bhd,bhde->bhe", q * scale, h)

    first = jnp.zeros((*q.shape[:2], q.shape[3], v.shape[3]), q.dtype)
    h, out = jax.lax.scan(step, first, (_walk(q), _walk(k), _walk(v), _walk(g)))
    return out, h


def delta_rule(q: Array, k: Array, v: Array, beta: Array, scale: Array) -> tuple[Array, Array]:
    def step(h: Array, now: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        q, k, v, b = now
        new = b[..., None] * (v - jnp.einsum("bhd,bhde->bhe", k, h))
        h = h + k[..., None] * new[..., None, :]
        return h, jnp.einsum("bhd,bhde->bhe", q * scale, h)

    first = jnp.zeros((*q.shape[:2], q.shape[3], v.shape[3]), q.dtype)
    h, out = jax.lax.scan(step, first, (_walk(q), _walk(k), _walk(v), _walk(beta)))
    return out, h


def selective_scan(x: Array, dt: Array, a: Array, b: Array, c: Array) -> Array:
    def step(h: Array, now: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        x, dt, b, c = now
        h = jnp.exp(dt[..., None] * a) * h + (dt * x)[..., None] * b[:, None, :]
        return h, (h * c[:, None, :]).sum(-1)

    walked = tuple(jnp.moveaxis(y, 1, 0) for y in (x, dt, b, c))
    return jax.lax.scan(step, jnp.zeros((x.shape[0], *a.shape), x.dtype), walked)[1]


def top_p(scores: Array, p: Array) -> Array:
    chance = jax.nn.softmax(scores, axis=-1)
    return jnp.where(jnp.cumsum(chance, axis=-1) - chance > p, -jnp.inf, scores)
