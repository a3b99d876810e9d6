"""What emission gives: Triton text, its functions with their arguments, and how nests map to launches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from tessera.backends.base import Target
from tessera.backends.triton.block_config import block_config, streamed
from tessera.backends.triton.blocks import Blocks
from tessera.backends.triton.intrinsics import SIGNATURE
from tessera.backends.triton.recurrence import Recurrence, recurrent_config
from tessera.backends.triton.tiling import Config, Mode, Tiling, configure
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Attr, Value
from tessera.ir.types import BufferType
from tessera.ir.within import applies


def wave(target: Target) -> int:
    """The lanes of a warp."""
    return 64 if target.kind == "hip" else 32


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a function: buffer ``number``, scalar ``number``, or the size ``dim``."""

    name: str
    kind: Literal["buffer", "size", "scalar"]
    number: int = 0
    dim: Dim | None = None
    dtype: DType | None = None


@dataclass(frozen=True, slots=True)
class KernelFunction:
    """One ``@triton.jit`` function of the text. ``blocks`` are its constexpr parameters: ROWS, COLS and
    WIDE (whether positions may need 64 bits) where it has them, and for nests of blocks those of their sides.
    """

    name: str
    arguments: tuple[Argument, ...]
    blocks: tuple[str, ...]
    looks_up: bool

    def text(self, lines: Iterable[str]) -> str:
        """The function around the lines of its body."""
        params = [a.name for a in self.arguments] + [f"{b}: tl.constexpr" for b in self.blocks]
        return "\n".join((f"@triton.jit\ndef {self.name}({', '.join(params)}):", *lines, ""))


def arguments(taken: Mapping[str, Value], sizes: Mapping[Dim, str]) -> tuple[Argument, ...]:
    """The arguments of a function: the buffers and scalars that it has ``taken`` under a letter and their number, and
    between them the sizes.
    """
    buffers, scalars = [], []
    for name, v in sorted(taken.items(), key=lambda item: int(item[0][1:])):
        number = int(name[1:])
        if isinstance(v.type, BufferType):
            buffers.append(Argument(name, "buffer", number, dtype=v.type.dtype))
        else:
            scalars.append(Argument(name, "scalar", number, dtype=v.type.dtype))
    return (*buffers, *(Argument(name, "size", dim=d) for d, name in sizes.items()), *scalars)


class Launchable(Protocol):
    """One launch: the functions that can carry it out, and for which sizes it is made."""

    @property
    def functions(self) -> Mapping[Mode, KernelFunction]: ...

    @property
    def when(self) -> Attr: ...

    def bind(self, sizes: Mapping[str, int], wave: int) -> Bound:
        """The launch at given sizes. Raises Unschedulable where it is too large for a program."""
        ...


@dataclass(frozen=True, slots=True)
class Nest:
    """One launch: the functions that can carry it out, one a mode, the layout that chooses, and for which sizes it
    is made.
    """

    tiling: Tiling | Blocks
    functions: Mapping[Mode, KernelFunction]
    when: Attr = None

    def configure(self, sizes: Mapping[str, int], wave: int) -> Config:
        """How it is launched at given sizes. Raises Unschedulable where it is too large for a program."""
        if isinstance(self.tiling, Recurrence):
            return recurrent_config(self.tiling, sizes, wave)
        if isinstance(self.tiling, Blocks):
            return block_config(self.tiling, sizes)
        return configure(self.tiling, sizes, wave)

    def bind(self, sizes: Mapping[str, int], wave: int) -> Bound:
        """The launch at given sizes. Raises as ``configure``."""
        config = self.configure(sizes, wave)
        plain = self.bound(config, sizes)
        if "streamed" in self.functions and isinstance(self.tiling, Blocks):
            other = streamed(self.tiling, sizes, config)
            return plain if other is None else self.bound(other, sizes, plain)
        return plain

    def bound(self, config: Config, sizes: Mapping[str, int], unaligned: Bound | None = None) -> Bound:
        """A launch with a configuration."""
        function = self.functions[config.mode]
        values = (a.dim for a in function.arguments if a.kind == "size" and a.dim is not None)
        return Bound(function, config, tuple(d.evaluate(sizes, signed=True) for d in values), unaligned)


@dataclass(frozen=True, slots=True)
class Bound:
    """A nest at given sizes: the function, its configuration, and the value of every size argument, in order. With
    ``unaligned`` the buffers must lie at multiples of 16 bytes; otherwise that is the launch.
    """

    function: KernelFunction
    config: Config
    sizes: tuple[int, ...]
    unaligned: Bound | None = None

    def at(self, aligned: frozenset[int]) -> Bound:
        """The launch where these buffers lie at multiples of 16 bytes."""
        buffers = {a.number for a in self.function.arguments if a.kind == "buffer"}
        return self if self.unaligned is None or buffers <= aligned else self.unaligned

    @property
    def constants(self) -> dict[str, int]:
        """Block sizes, and size arguments that are 1 (known so, strides of 1 make accesses contiguous)."""
        wide = self.config.grid * max(self.config.rows, self.config.cols) >= 1 << 31
        blocks = {"ROWS": self.config.rows, "COLS": self.config.cols, "WIDE": int(wide), **dict(self.config.more)}
        ones = {a.name: 1 for a, n in zip(self._size_arguments, self.sizes, strict=True) if n == 1}
        return {**{b: blocks[b] for b in self.function.blocks}, **ones}

    @property
    def options(self) -> tuple[int, bool, int]:
        """How it is compiled: the arguments of ``worker.options``."""
        return self.config.warps, self.function.looks_up, self.config.stages

    @property
    def _size_arguments(self) -> list[Argument]:
        return [a for a in self.function.arguments if a.kind == "size"]

    def signature(self, aligned: frozenset[int]) -> dict[str, str]:
        """Argument names to types; ``:16`` marks divisibility by 16. ``aligned`` are the buffers whose
        address has it.
        """
        sizes = iter(self.sizes)
        out: dict[str, str] = {}
        for a in self.function.arguments:
            if a.kind == "buffer":
                assert a.dtype is not None
                out[a.name] = f"*{SIGNATURE[a.dtype.name]}" + (":16" if a.number in aligned else "")
            elif a.kind == "size":
                n = next(sizes)
                out[a.name] = ("i32" if -(1 << 31) <= n < 1 << 31 else "i64") + (":16" if n % 16 == 0 else "")
            else:
                assert a.dtype is not None
                out[a.name] = "fp64" if a.dtype.is_float else "i64"
        return out


@dataclass(frozen=True, slots=True)
class TritonSource:
    """A kernel as Triton text.

    Buffers are numbered as in the kernel's parameters (inputs, outputs, temps), scalars likewise. Each
    nest is one launch, in order; so ``len(nests)`` is the number of launches.
    ``wave`` is the number of lanes of a warp on the target.
    """

    text: str
    nests: tuple[Launchable, ...]
    dtypes: tuple[DType, ...]
    scalars: tuple[DType, ...]
    wave: int = 32

    @property
    def functions(self) -> tuple[KernelFunction, ...]:
        return tuple(f for nest in self.nests for f in nest.functions.values())

    @property
    def looks_up(self) -> bool:
        """Whether some function checks an index read from memory."""
        return any(f.looks_up for f in self.functions)

    def bind(self, sizes: Mapping[str, int]) -> tuple[Bound, ...]:
        """The launches for given sizes; those with an empty grid are left out.

        Raises Unschedulable where a nest is too large for a program.
        """
        out = []
        for nest in self.nests:
            if not applies(nest.when, sizes):
                continue
            bound = nest.bind(sizes, self.wave)
            if bound.config.grid:
                out.append(bound)
        return tuple(out)
