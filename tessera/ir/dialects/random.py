"""Counter-based random numbers: Philox-4x32-10 (Salmon et al., 2011), the same on every backend.

The counter of an element is (its row-major position,
                              the number of the draw); the key is the seed. A draw is made in one
dimension and reshaped, so that the position is the index itself. No state is read or written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tessera.ir.dialects.calls import flat
from tessera.ir.dialects.composite_reduce import need_float
from tessera.ir.dialects.create import attr_dtype
from tessera.ir.dialects.rules import composite
from tessera.ir.dialects.samples import T, call, samples, size
from tessera.ir.dialects.shape import Attrs, Types, as_dim
from tessera.ir.dim import Dim, product
from tessera.ir.dtype import DType, dtype, f32, f64, int64, uint32
from tessera.ir.infer import Blame, InferContext
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType

_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_ROUNDS = 10

Words = tuple[Any, Any, Any, Any]


def philox(
    counter: Words,
    key: tuple[Any, Any],
    multiply: Callable[[Any, int], tuple[Any, Any]],
    step: Callable[[Any, int], Any],
) -> Words:
    """Ten rounds. ``multiply(x, c)`` gives the upper and lower word of a product, ``step(k, w)`` k + w modulo 2**32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for number in range(_ROUNDS):
        if number:
            k0, k1 = step(k0, _WEYL[0]), step(k1, _WEYL[1])
        high0, low0 = multiply(c0, _MULTIPLY[0])
        high1, low1 = multiply(c2, _MULTIPLY[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def _word(t: Any, x: Any) -> Any:
    """The lower 32 bits of an int64."""
    return t.cast(t.bitwise_and(x, _MASK), uint32)


def _words(t: Any, position: Any, seed: Any, offset: int) -> Words:
    """The four random words of one element."""
    seed = t.cast(seed, int64)
    counter = (_word(t, position), _word(t, position >> 32), _word(t, t.cast(offset & _MASK, int64)),
               _word(t, t.cast(offset >> 32, int64)))  # fmt: skip
    key = (_word(t, seed), _word(t, seed >> 32))
    return philox(counter, key, lambda x, c: (t.mulhi_u32(x, c), x * c), lambda k, w: k + w)


def philox_torch(torch: Any, seed: Any, offset: int, size: int) -> Words:
    """The same words in torch, as int64 tensors: its 32-bit unsigned arithmetic is incomplete."""

    def multiply(x: Any, c: int) -> tuple[Any, Any]:
        low, high = x & 0xFFFF, x >> 16
        middle = high * (c & 0xFFFF) + ((low * (c & 0xFFFF)) >> 16)
        carry = (middle & 0xFFFF) + low * (c >> 16)
        return high * (c >> 16) + (middle >> 16) + (carry >> 16), (x * c) & _MASK

    position = torch.arange(size, dtype=torch.int64)
    seed = torch.as_tensor(seed, dtype=torch.int64)
    zero = torch.zeros_like(position)
    counter = (position & _MASK, position >> 32, zero + (offset & _MASK), zero + (offset >> 32))
    return philox(
        counter, (zero + (seed & _MASK), zero + ((seed >> 32) & _MASK)), multiply, lambda k, w: (k + w) & _MASK
    )


def unit_bits(t: DType) -> int:
    """Bits of a uniform number that are exact in the dtype, so that rounding never gives 1."""
    return min(24, t.mantissa + 1)


def _uniform(t: Any, index: Sequence[Any], result: TensorType, seed: Any, *, offset: int, size: Any, dtype: Any) -> Any:
    w = _words(t, index[0], seed, offset)
    if result.dtype is f64:
        return _unit64(t.cast(w[0] >> 5, f64), t.cast(w[1] >> 6, f64))
    bits = unit_bits(result.dtype)
    return t.cast(w[0] >> (32 - bits), f32) * 2.0**-bits


def _unit64(high: Any, low: Any) -> Any:
    """53 bits from 27 and 26."""
    return (high * 2.0**26 + low) * 2.0**-53


def _normal(t: Any, index: Sequence[Any], result: TensorType, seed: Any, *, offset: int, size: Any, dtype: Any) -> Any:
    """Box and Muller's transform of two uniform numbers, the first of them never 0."""
    w = _words(t, index[0], seed, offset)
    if result.dtype is f64:
        first = _unit64(t.cast(w[0] >> 5, f64), t.cast(w[1] >> 6, f64)) + 2.0**-54
        second = _unit64(t.cast(w[2] >> 5, f64), t.cast(w[3] >> 6, f64))
    else:
        first = (t.cast(w[0] >> 8, f32) + 1.0) * 2.0**-24
        second = t.cast(w[1] >> 8, f32) * 2.0**-24
    return t.sqrt(-2.0 * t.log(first)) * t.cos((2.0 * math.pi) * second)


def _integers(
    t: Any,
    index: Sequence[Any],
    result: TensorType,
    seed: Any,
    low: Any,
    high: Any,
    *,
    offset: int,
    size: Any,
    dtype: Any,
) -> Any:
    """low + the upper word of (random word * range): ranges up to 2**32, bias below range / 2**32."""
    w = _words(t, index[0], seed, offset)
    span = _word(t, t.cast(high, int64) - low)
    return t.cast(t.cast(t.mulhi_u32(w[0], span), int64) + low, dtype)


def _uniform_torch(torch: Any, seed: Any, *, offset: int, size: int, dtype: Any) -> Any:
    w = philox_torch(torch, seed, offset, size)
    if dtype is torch.float64:
        return _unit64((w[0] >> 5).double(), (w[1] >> 6).double())
    bits = min(24, round(-math.log2(torch.finfo(dtype).eps)) + 1)
    return ((w[0] >> (32 - bits)).float() * 2.0**-bits).to(dtype)


def _normal_torch(torch: Any, seed: Any, *, offset: int, size: int, dtype: Any) -> Any:
    w = philox_torch(torch, seed, offset, size)
    if dtype is torch.float64:
        first = _unit64((w[0] >> 5).double(), (w[1] >> 6).double()) + 2.0**-54
        second = _unit64((w[2] >> 5).double(), (w[3] >> 6).double())
    else:
        first, second = ((w[0] >> 8).float() + 1.0) * 2.0**-24, (w[1] >> 8).float() * 2.0**-24
    return ((-2.0 * first.log()).sqrt() * ((2.0 * math.pi) * second).cos()).to(dtype)


def _integers_torch(torch: Any, seed: Any, low: Any, high: Any, *, offset: int, size: int, dtype: Any) -> Any:
    w = philox_torch(torch, seed, offset, size)[0]
    span = int(high) - int(low)
    upper = (w >> 16) * span + (((w & 0xFFFF) * span) >> 16)
    return ((upper >> 16) + int(low)).to(dtype)


def _random_infer(floats: bool) -> Any:
    def infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        kind = attr_dtype(attrs)
        if floats and not kind.is_float:
            ctx.fail("TSR0306", f"a random number of dtype `{kind}`", Blame(None), helps=["sample in f32 and quantize"])
        return (TensorType(kind, (as_dim(attrs["size"]),)),)

    return infer


def _primitive(
    name: str, doc: str, define: Any, eager: Any, operands: str = "seed: tensor", floats: bool = True
) -> OpRecord:
    return OpRecord(name, Kind.RANDOM, f"{operands}, offset: int, size: size, dtype: dtype", doc, _random_infer(floats),
                    define=define, eager=eager, flops=60)  # fmt: skip


RANDOM_UNIFORM = _primitive("random_uniform", "Uniform numbers in [0, 1), 24 bits.", _uniform, _uniform_torch)
RANDOM_NORMAL = _primitive("random_normal", "Normal numbers of mean 0 and deviation 1.", _normal, _normal_torch)
RANDOM_INTEGERS = _primitive("random_integers", "Integers in [low, high).", _integers, _integers_torch,
                             "seed: tensor, low: tensor, high: tensor", floats=False)  # fmt: skip


# --- composites -------------------------------------------------------------------------------------------------------


def draw(t: Any, name: str, shape: Sequence[Dim], kind: DType, *operands: Any) -> Any:
    """One draw in the given shape. Floats of 8 bits are drawn in f32 and cast."""
    seed, offset = t.random_key()
    made = f32 if kind.is_fp8 else kind
    x = t.emit(name, (seed, *operands), offset=offset, size=product(tuple(shape)), dtype=made)
    return t.cast(t.emit("reshape", (x,), shape=tuple(shape)) if len(shape) != 1 else x, kind)


def _sized(name: str) -> Any:
    def define(t: Any, *size: Any, dtype: Any = None, **_: Any) -> Any:
        return draw(t, name, t.sizes(size), f32 if dtype is None else as_dtype(dtype))

    return define


def as_dtype(x: Any) -> DType:
    """The DType of a name; the parameters here are called ``dtype`` themselves."""
    return dtype(x)


def _like(name: str) -> Any:
    def define(t: Any, x: Any, *, dtype: Any = None, **_: Any) -> Any:
        return draw(t, name, t.dims(x), t.dtype_of(x) if dtype is None else as_dtype(dtype))

    return define


def _randint(
    t: Any, *bounds: Any, low: Any = None, high: Any = None, size: Any = None, dtype: Any = None, **_: Any
) -> Any:
    """``randint(high, size)`` or ``randint(low, high, size)``."""
    given = list(bounds)
    if size is None:
        size = given.pop()
    if high is None:
        high = given.pop()
    if low is None:
        low = given.pop() if given else 0
    return draw(t, "random_integers", t.sizes(flat((size,))), int64 if dtype is None else as_dtype(dtype), low, high)


def _randint_like(t: Any, x: Any, *bounds: Any, dtype: Any = None, **_: Any) -> Any:
    low, high = bounds if len(bounds) == 2 else (0, bounds[0])
    return draw(t, "random_integers", t.dims(x), t.dtype_of(x) if dtype is None else as_dtype(dtype), low, high)


def _normal_like(t: Any, mean: Any, std: Any = 1.0, size: Any = None, *, dtype: Any = None, **_: Any) -> Any:
    if size is None:
        shape = t.context.broadcast([t.type_of(mean), t.type_of(std)])
        kind = t.dtype_of(mean if t.is_tensor(mean) else std)
    else:
        shape, kind = t.sizes(flat((size,))), f32 if dtype is None else as_dtype(dtype)
    # As in torch the numbers are data: no derivative goes back to what they are drawn around.
    mean, std = (t.detach(x) if t.is_tensor(x) else x for x in (mean, std))
    return t.add(t.mul(draw(t, "random_normal", shape, kind), std), mean)


def _bernoulli(t: Any, x: Any, p: Any = None, **_: Any) -> Any:
    kind = t.dtype_of(x)
    u = draw(t, "random_uniform", t.dims(x), kind if kind.is_float else f32)
    return t.cast(t.lt(u, x if p is None else p), kind)


def _dropout(t: Any, x: Any, p: Any = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Elements are zeroed with probability p, the others scaled by 1 / (1 - p)."""
    if not training or (isinstance(p, int | float) and p == 0):
        return x
    need_float(t, x, "dropout")
    if isinstance(p, int | float) and p == 1:
        return t.mul(x, 0.0)
    kept = t.ge(draw(t, "random_uniform", t.dims(x), f32), p)
    # Where nothing is kept the gradients of what would be are numbers, too.
    scale = 1.0 / (1.0 - p) if isinstance(p, int | float) else t.div(1.0, t.maximum(t.sub(1.0, p), 2.0**-24))
    return t.where(kept, t.mul(x, scale), 0.0)


def _randperm(t: Any, n: Any, *, dtype: Any = None, **_: Any) -> Any:
    keys = draw(t, "random_uniform", (t.size(n),), f64)
    return t.cast(t.argsort(keys), int64 if dtype is None else as_dtype(dtype))


def _rand_like_sample() -> Any:
    return samples(call(T(("B", 3))), call(T(("B", 3), "bf16")))


_SIZE_SIGNATURE = "*size: size, dtype: dtype = None"
_LIKE_SIGNATURE = "x: tensor, *, dtype: dtype = None"

OPS: tuple[OpRecord, ...] = (
    RANDOM_UNIFORM,
    RANDOM_NORMAL,
    RANDOM_INTEGERS,
    composite("rand", _SIZE_SIGNATURE, "Uniform numbers in [0, 1).", _sized("random_uniform"), ("torch.rand",),
               samples(call(size("B"), 3), call((size("B"),), dtype="bf16"))),
    composite("randn", _SIZE_SIGNATURE, "Normal numbers.", _sized("random_normal"), ("torch.randn",),
               samples(call(size("B"), 3), call((2, 2), dtype="f64"))),
    composite("rand_like", _LIKE_SIGNATURE, "Uniform numbers in the same shape.", _like("random_uniform"),
               ("torch.rand_like",), _rand_like_sample()),
    composite("randn_like", _LIKE_SIGNATURE, "Normal numbers in the same shape.", _like("random_normal"),
               ("torch.randn_like",), _rand_like_sample()),
    composite("randint", "*bounds: any, low: any = None, high: any = None, size: any = None, dtype: dtype = None",
               "Integers in [low, high).", _randint, ("torch.randint",),
               samples(call(10, (size("B"), 3)), call(-5, 5, (4,)))),
    composite("randint_like", "x: tensor, *bounds: any, dtype: dtype = None", "Integers in the same shape.",
               _randint_like,
               ("torch.randint_like",), samples(call(T(("B", 3)), 10))),
    composite("normal", "mean: tensor, std: tensor = 1.0, size: any = None, *, dtype: dtype = None",
               "Normal numbers of given mean and deviation.",
               _normal_like, ("torch.normal",), samples(call(T(("B", 3)), T(("B", 3), domain=(0.5, 2.0))),
                                                        call(1.0, 2.0, (4,)))),
    composite("bernoulli", "x: tensor float, p: tensor? = None", "Ones with the given probability, zeros otherwise.",
              _bernoulli,
               ("torch.bernoulli", "torch.Tensor.bernoulli"), samples(call(T(("B", 3), domain=(0.0, 1.0)))),
               ("bernoulli",)),
    composite("dropout", "x: tensor, p: tensor = 0.5, training: bool = True, inplace: bool = False",
               "Random elements zeroed, the others scaled up.", _dropout,
               ("torch.nn.functional.dropout", "torch.dropout"),
               samples(call(T(("B", 3)), 0.25), call(T(("B", 3)), training=False))),
    composite("randperm", "n: size, *, dtype: dtype = None", "The numbers below n in random order.", _randperm,
               ("torch.randperm",), samples(call(size("S")))),
)  # fmt: skip
