"""What every backend shares: targets, dumpable stages, and artifacts that load themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

#: What may stand in the metadata of an artifact: plain JSON.
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

TargetKind = Literal["cpu", "cuda", "hip"]


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that code is made for; everything in it may decide what the code looks like.

    `arch` is the architecture as its toolchain writes it ("x86_64", "90", "gfx942"), `features` are what
    a processor can do beyond that, by the names its toolchain uses. `units` are the multiprocessors of a GPU, 0 where
    that is not known: they decide how many programs are launched.

    >>> Target("cuda", "90").name
    'cuda:90'
    >>> Target("cpu", "x86_64", ("avx2", "fma")).features
    ('avx2', 'fma')
    """

    kind: TargetKind
    arch: str = ""
    features: tuple[str, ...] = ()
    units: int = 0

    @property
    def name(self) -> str:
        """The short name: "cpu", or the kind and the architecture, as in "cuda:90"."""
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.arch}"


@dataclass(frozen=True, slots=True)
class Stage:
    """One dumpable step on the way to an artifact: its name, such as "c" or "ptx", and its text."""

    name: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Packed:
    """An artifact as bytes: what the artifact cache stores and verifies.

    `key` is 64 lower-case hexadecimal digits, `kind` says which backend unpacks it, `payloads` are
    named byte strings, and `metadata` is plain JSON (stages, resources, entry names).
    """

    key: str
    kind: str
    payloads: Mapping[str, bytes] = field(repr=False)
    metadata: Mapping[str, Json] = field(default_factory=dict, repr=False)


@runtime_checkable
class Loaded(Protocol):
    """An artifact in this process, ready to be called."""

    def entry(self, name: str) -> Callable[..., object]:
        """An entry point by its name; raises ResourceError (TSR0607) when there is none."""
        ...


@runtime_checkable
class Artifact(Protocol):
    """A finished compilation: readable in every stage, storable as bytes, able to load itself."""

    @property
    def key(self) -> str:
        """The content address: 64 hexadecimal digits over everything that shaped the artifact."""
        ...

    @property
    def kind(self) -> str:
        """Which backend made it, and so which one unpacks it."""
        ...

    @property
    def sources(self) -> tuple[Stage, ...]:
        """The stages, first to last."""
        ...

    @property
    def resources(self) -> Mapping[str, Json]:
        """What it needs to run: registers, shared memory, spills, code size in bytes."""
        ...

    def pack(self) -> Packed:
        """The artifact as bytes."""
        ...

    def load(self) -> Loaded:
        """Bring it into this process; raises ResourceError when it cannot be loaded."""
        ...
