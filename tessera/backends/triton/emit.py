"""Tile IR to Triton: one function a nest and mode, one line an operation.

Narrow floats are f32 from the load on, which the tile IR already says; addresses are a 64-bit part that a
whole row shares and an offset inside the tile. Names come from the op records and from numbers, never
from the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tessera.backends.base import Target
from tessera.backends.triton import intrinsics
from tessera.backends.triton.block_function import BlockEmitter, block_emitter
from tessera.backends.triton.blocks import Blocks, blocks, has_blocks
from tessera.backends.triton.descriptors import descriptors
from tessera.backends.triton.function import FunctionEmitter, emitter
from tessera.backends.triton.recurrence import Recurrence, is_ordered, recurrence
from tessera.backends.triton.recurrent_function import RecurrentEmitter, recurrent_emitter
from tessera.backends.triton.source import KernelFunction, Nest, TritonSource, wave
from tessera.backends.triton.tiling import Mode, Tiling, tiling
from tessera.ir.dtype import DType
from tessera.ir.graph import Function, Operation, Value
from tessera.ir.types import BufferType, ScalarType
from tessera.schedule.plan import Kernel, Unschedulable

_HEADER = "import triton\nimport triton.language as tl\nfrom triton.language.extra import libdevice\n"


@dataclass
class Parts:
    """Text that the functions of a kernel share: helpers, and one merge function for each kind of fold."""

    used: intrinsics.Used = field(default_factory=intrinsics.Used)
    merges: dict[str, str] = field(default_factory=dict)

    def text(self, functions: list[str]) -> str:
        blocks = [_HEADER, *self.used.prelude()]
        blocks += [f"@triton.jit\ndef {name}{body}\n" for body, name in self.merges.items()]
        return "\n\n".join((*blocks, *functions))


def emit(kernel: Kernel, target: Target) -> TritonSource:
    """The Triton text of a scheduled kernel. Raises Unschedulable for what the target cannot do."""
    return emit_function(kernel.function, target)


def emit_function(f: Function, target: Target) -> TritonSource:
    """The Triton text of a function of the tile dialect; as ``emit``.

    >>> from tessera.ir.parser import parse
    >>> f = parse('''kernel double(x: in f32[D], y: out f32[D]) {
    ...   nest(axes=("i",), extents=[D], vector="i") {
    ...     %a = load(x, index=[i]) : f32<i>
    ...     %b = add(%a, %a)        : f32<i>
    ...          store(y, %b, index=[i])
    ...   }
    ... }''')
    >>> source = emit_function(f, Target("cuda", "90"))
    >>> source.functions[0].name, [a.name for a in source.functions[0].arguments]
    ('nest0_tile', ['b0', 'b1', 'n0'])
    """
    names, dtypes, scalars = named(f.params, target)
    parts = Parts()
    nests: list[Nest] = []
    texts: list[str] = []
    for number, op in enumerate(f.ops):
        laid = _laid_out(op, target)
        functions: dict[Mode, KernelFunction] = {}
        for mode in (*laid.modes, *more_modes(laid)):
            one = _emitter(f"nest{number}_{mode}", laid, mode, names, parts)
            texts.append(one.run())
            functions[mode] = one.function()
        nests.append(Nest(laid, functions, op.attrs.get("when")))
    return TritonSource(parts.text(texts), tuple(nests), tuple(dtypes), tuple(scalars), wave(target))


def named(params: Sequence[Value], target: Target) -> tuple[dict[Value, str], list[DType], list[DType]]:
    """The names of buffers and scalars in the text, and their dtypes. Raises Unschedulable for what a target lacks."""
    if target.kind == "cpu":
        raise Unschedulable("Triton makes code for GPUs")
    names: dict[Value, str] = {}
    dtypes: list[DType] = []
    scalars: list[DType] = []
    for p in params:
        if isinstance(p.type, BufferType):
            if p.type.pieces:
                raise Unschedulable("a buffer in several pieces of memory")
            names[p] = f"b{len(dtypes)}"
            dtypes.append(p.type.dtype)
        else:
            assert isinstance(p.type, ScalarType)
            names[p] = f"s{len(scalars)}"
            scalars.append(p.type.dtype)
    for t in (*dtypes, *scalars):
        old = target.kind == "cuda" and target.arch.isdigit() and int(target.arch) < 89
        if t.name not in intrinsics.TYPES or (old and t.name == "fp8_e4m3"):
            raise Unschedulable(f"Triton has no element type `{t}` on {target.name}")
    return names, dtypes, scalars


def more_modes(laid: Tiling | Blocks) -> tuple[Mode, ...]:
    """Modes that depend on where buffers lie."""
    if isinstance(laid, Tiling | Recurrence):
        return ()
    return ("streamed",) if descriptors(laid) else ()


def _laid_out(nest: Operation, target: Target) -> Tiling | Blocks:
    if is_ordered(nest):
        return recurrence(nest, target)
    return blocks(nest, target) if has_blocks(nest) else tiling(nest)


def _emitter(
    name: str, laid: Tiling | Blocks, mode: Mode, names: dict[Value, str], parts: Parts
) -> FunctionEmitter | BlockEmitter | RecurrentEmitter:
    if isinstance(laid, Recurrence):
        return recurrent_emitter(name, laid, names, parts.used, parts.merges)
    if isinstance(laid, Blocks):
        return block_emitter(name, laid, mode, names, parts.used, parts.merges)
    return emitter(name, laid, mode, names, parts.used, parts.merges)
