"""The C backend: kernels in, one loaded shared library out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from tessera import config
from tessera.backends.base import Json, Packed, Stage, Target
from tessera.backends.c import openmp, runner, windows
from tessera.backends.c.emit import CSource, Emitter
from tessera.backends.c.host import host_target
from tessera.backends.c.intrinsics import has_pairs, natural_lanes
from tessera.backends.c.load import SharedObject, load_shared
from tessera.backends.c.skeleton import Skeleton
from tessera.backends.c.toolchain import CompileOptions, compile_shared, find_compiler, toolchain_key
from tessera.ir.graph import Function, Operation, Value
from tessera.ir.types import BufferType
from tessera.schedule.plan import Kernel, Program

KIND = "c"


@dataclass(frozen=True)
class CProgram:
    """The kernels of one function as C: one text, and for each kernel how it is called."""

    text: str
    kernels: tuple[CSource, ...]
    options: CompileOptions

    def key_parts(self) -> tuple[str, ...]:
        """Everything that shapes the compiled library."""
        return (KIND, self.text, *toolchain_key(find_compiler(), self.options, openmp.loaded()))

    def compile(self, key: str) -> CArtifact:
        """Compile; ``key`` is the digest that the artifact is stored under. Raises ResourceError (TSR0601, TSR0602)."""
        return CArtifact(key, self.text, compile_shared(self.text, options=self.options, openmp=openmp.loaded()))


@dataclass(frozen=True)
class CArtifact:
    """A compiled library; see ``backends.base.Artifact``."""

    key: str
    text: str = field(repr=False)
    library: bytes = field(repr=False)
    kind: str = KIND

    @property
    def sources(self) -> tuple[Stage, ...]:
        return (Stage("c", self.text),)

    @property
    def resources(self) -> Mapping[str, Json]:
        return {"bytes": len(self.library)}

    def pack(self) -> Packed:
        return Packed(self.key, self.kind, {"library": self.library, "c": self.text.encode()})

    @classmethod
    def unpack(cls, packed: Packed) -> CArtifact:
        """The artifact from its stored form."""
        return cls(packed.key, packed.payloads["c"].decode(), packed.payloads["library"])

    def load(self) -> SharedObject:
        return load_shared(self.library, f"tessera-{self.key[:16]}")


def added_dtypes(program: Program) -> tuple[str, ...]:
    """The dtypes of the rows that library calls of a program add to rows of tensors, of those that C can add."""
    calls = (c.op for c in program.calls)
    rows = {op.result.type.dtype.name for op in calls if op.record.adds and op.record.adds(op.attrs) is not None}
    return tuple(dtype for dtype in runner.ADDED if dtype in rows)


def emit(
    kernels: Sequence[Kernel], target: Target | None = None, added: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> CProgram:  # fmt: skip
    """The C text of a function's kernels, entries ``tessera_0``, ``tessera_1``, …, and of what adds rows of the dtypes
    ``added``. It is right for all sizes; ``sizes`` are likely ones.
    """
    features = (target or host_target()).features
    natural = natural_lanes(features)
    lanes = min(choose_lanes(k.function, natural) for k in kernels)
    pairs = has_pairs(features, lanes)
    made = [Emitter(k.function, lanes, f"tessera_{n}", pairs, likely=sizes or {}) for n, k in enumerate(kernels)]
    sources = shared([emitter.run() for emitter in made])
    once = list({s.entry: s for s in sources}.values())
    if added:
        once[-1] = replace(once[-1], body=f"{once[-1].body}\n{runner.adders(added)}")
    text = CSource.join(once) + runner.TEXT
    return CProgram(text, sources, _options(text))


def emit_program(
    f: Function, programs: Mapping[Operation, Program], lined: Set[Value] = frozenset(), target: Target | None = None
) -> BlockCode:  # fmt: skip
    """The C text of a block program; ``programs`` are the kernels of its parts, which read blocks that are ``lined``
    row by row.
    """
    features = (target or host_target()).features
    natural = natural_lanes(features)
    kernels = [k for p in programs.values() for k in p.kernels]
    lanes = min((choose_lanes(k.function, natural) for k in kernels), default=natural)
    pairs = has_pairs(features, lanes)
    made = [Emitter(k.function, lanes, f"tessera_k{n}", pairs, serial=True).run() for n, k in enumerate(kernels)]
    sources = shared(made)
    skeleton = Skeleton(f, programs, {id(k): s for k, s in zip(kernels, sources, strict=True)}, lined)
    entry = replace(skeleton.run(), lanes=lanes)
    once = list({s.entry: s for s in sources}.values())
    text = CSource.join([*once, replace(entry, body=windows.HELPERS + entry.body)])
    return BlockCode(CProgram(text, (entry,), _options(text)), entry, tuple(skeleton.sites))


@dataclass(frozen=True)
class BlockCode:
    """A block program as C: its entry, and the operations that a code which the entry gives back may name."""

    program: CProgram
    entry: CSource
    sites: tuple[Operation, ...]


def _options(text: str) -> CompileOptions:
    libm = _calls_libm(text)
    return CompileOptions(level=config.current().cflags_opt, libm=libm, extra=() if libm else ("-fno-math-errno",))


def shared(sources: Sequence[CSource]) -> tuple[CSource, ...]:
    """The kernels with one entry for all whose code is the same: the layers of a model are compiled once."""
    first: dict[str, CSource] = {}
    known = (first.setdefault(s.body.replace(f"{s.entry}(", "("), s) for s in sources)
    return tuple(replace(s, entry=k.entry, body=k.body) for s, k in zip(sources, known, strict=True))


def choose_lanes(f: Function, natural: int) -> int:
    """Half the lanes for a kernel whose memory holds only 8-byte elements: two registers a value would spill."""
    widths = {p.type.dtype.bytes for p in f.params if isinstance(p.type, BufferType)}
    return max(natural // 2, 4) if widths == {8} else natural


def _calls_libm(text: str) -> bool:
    """Does a kernel use a function that the vector library takes from the C library?"""
    return "extern f64 " in text or "extern f32 " in text
