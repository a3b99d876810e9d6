"""Block programs on GPUs: each nest of grids is one Triton function, written for the sizes of its blocks.

Sizes that blocks have are numbers in the text, so a program has a text for each choice of them; all other sizes,
strides, and scalars are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tessera.backends.base import Target
from tessera.backends.triton.emit import Parts, named
from tessera.backends.triton.expr import Expressions, Sizes
from tessera.backends.triton.launch import Compile, Launch, Launcher, compile_here, load_here, never
from tessera.backends.triton.program_config import default_blocks, makers_of, programs, warps_for
from tessera.backends.triton.program_function import ProgramFunction
from tessera.backends.triton.program_locals import forwarded
from tessera.backends.triton.program_memory import is_stride, shared_buffers, stride
from tessera.backends.triton.program_plan import Needs, Part, bounded, parts, static_names
from tessera.backends.triton.program_products import is_tiles, least_lengths
from tessera.backends.triton.source import Bound, KernelFunction, TritonSource, wave
from tessera.backends.triton.tiling import Config, Mode
from tessera.diag import ResourceError, ShapeError
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Attr, Function, Value, walk
from tessera.ir.types import BufferType
from tessera.schedule.plan import Unschedulable

#: Offsets inside a block have 32 bits below this, for sums of two.
_NEAR = 1 << 29
#: Sizes for which a kernel remembers its launches.
_MOST_BOUND = 256


@dataclass(frozen=True)
class Written:
    """One launch of a program: its function, its grid, and what decides the constants."""

    function: KernelFunction
    part: Part
    #: Where rows begin at multiples of 16 elements, and where some do not.
    warps: tuple[int, int]
    stages: int
    static: Mapping[str, int]
    even: Mapping[tuple[Dim, int], str]
    slopes: tuple[tuple[int, Dim], ...]

    @property
    def functions(self) -> Mapping[Mode, KernelFunction]:
        return {"written": self.function}

    @property
    def when(self) -> Attr:
        return None

    def bind(self, sizes: Mapping[str, int], wave: int) -> Bound:
        """The launch at given sizes."""
        known = {**sizes, **self.static}
        more = [(name, int(e.evaluate(known, signed=True) % n == 0)) for (e, n), name in self.even.items()]
        far = any(n * abs(by.evaluate(known, signed=True)) >= _NEAR for n, by in self.slopes)
        more.append(("WIDE", int(far)))
        grid = programs(self.part, known)
        apart = any(by != 1 and by % 16 for name, by in sizes.items() if is_stride(name))
        config = Config("written", 1, 1, self.warps[apart], grid, tuple(more), self.stages)
        values = (a.dim for a in self.function.arguments if a.kind == "size" and a.dim is not None)
        return Bound(self.function, config, tuple(d.evaluate(known, signed=True) for d in values))


@dataclass(frozen=True)
class Own:
    """Memory of each program's own: its elements, and the launch whose programs have it."""

    dtype: DType
    count: Dim
    part: Part


@dataclass(frozen=True)
class ProgramSource:
    """The text of a program for some sizes of blocks, and the buffers that launches need beside the parameters."""

    triton: TritonSource
    own: tuple[Own, ...]


def emit_program(
    f: Function, sizes: Mapping[str, int], target: Target, settings: Mapping[str, int] = MappingProxyType({})
) -> ProgramSource:
    """The Triton text of a block program; ``sizes`` has those of its blocks.

    Raises ResourceError (TSR0607, TSR0608) for what Triton cannot do, ShapeError (TSR0110) for a block without a size.
    """
    f = forwarded(bounded(f))
    static = {n: _known(n, sizes) for n in sorted(static_names(f))}
    try:
        names, dtypes, scalars = named(f.params, target)
    except Unschedulable as e:
        raise ResourceError(str(e), code="TSR0607") from None
    locals_ = [op.result for op in walk(f.body) if op.record is LOCAL]
    names |= {v: f"b{n}" for n, v in enumerate(locals_, len(dtypes))}
    dtypes += [v.type.dtype for v in locals_]
    shared = Parts()
    launches: list[Written] = []
    texts: list[str] = []
    own: dict[Value, Own] = {}
    for number, part in enumerate(parts(f)):
        one = _function(f"part{number}", f, part, static, names, shared)
        texts.append(one.run())
        own |= {v: Own(v.type.dtype, count, part) for v, count in one.own.items()}
        given, sides = settings.get("num_warps", 0), (True, False)
        first, second = (given or warps_for(part.ops, one.makers, static, target, aligned) for aligned in sides)
        dots = any(is_tiles(op, one.makers, static) for op in walk(f.body))
        # Loads under way ahead of their step must not pass what a step before it writes.
        stages = 1 if one.shared else settings.get("num_stages", 0) or (3 if dots and target.kind == "cuda" else 0)
        slopes = tuple(dict.fromkeys(one.slopes))
        launches.append(Written(one.function(), part, (first, second), stages, static, dict(one.even), slopes))
    text = TritonSource(shared.text(texts), tuple(launches), tuple(dtypes), tuple(scalars), wave(target))
    return ProgramSource(text, tuple(own[v] for v in locals_))


def _known(name: str, sizes: Mapping[str, int]) -> int:
    """The size of a block. Raises ShapeError (TSR0110) where nobody has said it."""
    if name not in sizes:
        raise ShapeError(f"size `{name}` is not known", code="TSR0110")
    return sizes[name]


def _function(
    name: str, f: Function, part: Part, static: Mapping[str, int], names: Mapping[Value, str], shared: Parts
) -> ProgramFunction:
    makers = makers_of(f)
    needs = Needs(static, makers)
    needs.block(part.ops)
    inside = [o for op in part.ops for o in ((op,) if op.body is None else (op, *walk(op.body)))]
    return ProgramFunction(
        names, shared.used, Expressions(Sizes(), {}), static=static, makers=makers, whole=frozenset(needs.whole),
        least=least_lengths(inside, makers, static), shared=shared_buffers(inside), merges=shared.merges, name=name,
        part=part, effects=frozenset(needs.effects),
    )  # fmt: skip


def source(
    f: Function, sizes: Mapping[str, int], target: Target, settings: Mapping[str, int] = MappingProxyType({})
) -> str:
    """The Triton text of a block program; as ``emit_program``."""
    return emit_program(f, sizes, target, settings).triton.text


@dataclass
class TritonKernel:
    """A block program on the GPU of this machine. ``settings`` may have ``num_warps`` and ``num_stages``."""

    function: Function
    target: Target
    settings: Mapping[str, int] = field(default_factory=dict)
    compile: Compile = compile_here
    load: Callable[..., Any] = load_here
    capturing: Callable[[], bool] = never
    _made: dict[tuple[int, ...], tuple[ProgramSource, Launcher]] = field(default_factory=dict)
    _bound: dict[tuple[tuple[str, int], ...], Launch] = field(default_factory=dict)

    def blocks(self, names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes for the blocks among ``names`` that ``sizes`` does not have."""
        return default_blocks(self.function, names, sizes, self.target)

    def at(self, sizes: Mapping[str, int]) -> tuple[ProgramSource, Launcher]:
        """The text and its launcher for the sizes of blocks in ``sizes``, made when they are first asked for."""
        key = tuple(_known(n, sizes) for n in sorted(static_names(self.function)))
        if key not in self._made:
            made = emit_program(self.function, sizes, self.target, self.settings)
            self._made[key] = made, Launcher(made.triton, self.compile, self.load, self.capturing)
        return self._made[key]

    def run(
        self, tensors: Mapping[str, Any], numbers: Mapping[str, float], sizes: Mapping[str, int], stream: int
    ) -> int:
        """Run the program on tensors of the device, by the names of its parameters, with every output among them;
        gives the number of launches.

        ``sizes`` binds every size and block. Raises ResourceError (TSR0607, TSR0608).
        """
        made, launcher = self.at(sizes)
        buffers = [tensors[p.name] for p in self.function.params if isinstance(p.type, BufferType)]
        scalars = [numbers[p.name] for p in self.function.params if not isinstance(p.type, BufferType)]
        known = bound_sizes(sizes, [t.stride() for t in buffers])
        key = tuple(sorted(known.items()))
        launch = self._bound.get(key)
        if launch is None:
            if len(self._bound) >= _MOST_BOUND:
                self._bound.clear()
            launch = self._bound[key] = launcher.at(known)
        # They live until the launches are on their way; the memory is used again in the order of the stream.
        own = [_memory(o, known, buffers[0]) for o in made.own]
        return launch([t.data_ptr() for t in (*buffers, *own)], scalars, stream)


def bound_sizes(sizes: Mapping[str, int], strides: Sequence[Sequence[int]]) -> dict[str, int]:
    """Sizes, and strides by buffer and axis, under the names that texts have for them."""
    found = {str(stride(n, axis)): by for n, row in enumerate(strides) for axis, by in enumerate(row)}
    return {**sizes, **found}


def _memory(own: Own, sizes: Mapping[str, int], like: Any) -> Any:
    """Memory for all programs of a launch, where a tensor lies."""
    import torch

    count = own.count.evaluate(sizes, signed=True) * max(programs(own.part, sizes), 1)
    return torch.empty(max(count * own.dtype.bytes, 1), dtype=torch.uint8, device=like.device)


__all__ = ["Own", "ProgramSource", "TritonKernel", "Written", "bound_sizes", "emit_program", "source"]
