"""What one program of a target may use, how fast it is, and the blocks that are tried: one small table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tessera.backends.base import Target

#: Programs that keep a large GPU busy.
ENOUGH_PROGRAMS = 132

#: Rows, columns and warps to try; where nothing says otherwise the fastest first.
Trial = tuple[int, int, int]
_WIDE: tuple[Trial, ...] = ((32, 32, 8), (16, 32, 4), (16, 16, 4))
#: By the bytes of an operand: 2 or fewer, 4, 8. Products of f32 use no tensor cores, and more registers.
_NVIDIA: tuple[tuple[Trial, ...], ...] = (
    ((128, 128, 8), (128, 64, 8), (64, 64, 4), (64, 32, 4), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    ((64, 32, 8), (32, 32, 8), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    _WIDE,
)
_AMD: tuple[tuple[Trial, ...], ...] = (
    ((128, 32, 4), (64, 32, 4), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    ((64, 32, 8), (32, 32, 8), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    _WIDE,
)
_EXACT_TILED: tuple[Trial, ...] = ((64, 64, 8), (32, 64, 4), (16, 64, 4), (32, 32, 4), (16, 32, 4), (16, 16, 4))
#: The same where nothing is folded over the columns.
_NVIDIA_TILED: tuple[tuple[Trial, ...], ...] = (
    (
        (128, 256, 8), (256, 128, 8), (128, 128, 8), (64, 256, 8), (128, 64, 8), (64, 128, 4), (64, 64, 4),
        (32, 128, 4), (16, 128, 4), (32, 64, 4), (16, 64, 4), (32, 32, 4), (16, 32, 4), (16, 16, 4),
    ),
    _EXACT_TILED,
    _WIDE,
)  # fmt: skip
_AMD_TILED: tuple[tuple[Trial, ...], ...] = (
    (
        (128, 128, 8), (128, 64, 4), (64, 128, 4), (64, 64, 4), (32, 64, 4), (16, 128, 4), (16, 64, 4), (32, 32, 4),
        (16, 32, 4), (16, 16, 4),
    ),
    _EXACT_TILED,
    _WIDE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a GPU is, for each of its ``units`` and cycle: ``products`` that are added up, by the bytes of a factor
    (2 or fewer, 4, 8); bytes read ``near``, from the cache that all share, and ``far``, from memory while all read. A
    byte arrives after so many cycles of ``latency``. Tiles of fewer than ``full`` rows get half of the products.
    """

    units: int
    products: tuple[int, int, int]
    near: int
    far: int
    latency: int
    full: int = 16


@dataclass(frozen=True, slots=True)
class Room:
    """What one program of a target may use: bytes of shared memory, and f32 elements of its tiles a lane; how many
    blocks are under way at a time, and how many may be where that is what takes time; and how fast the target is.
    """

    shared: int
    tiles: int
    stages: int
    deepest: int
    walked: tuple[tuple[Trial, ...], ...]
    tiled: tuple[tuple[Trial, ...], ...]
    pace: Pace


#: By kind and architecture; the last row of a kind is for those that are not listed.
ROOMS: Mapping[str, Room] = MappingProxyType(
    {
        "cuda:90": Room(232448, 112, 3, 8, _NVIDIA, _NVIDIA_TILED, Pace(132, (2048, 128, 64), 48, 18, 1000, 64)),
        "cuda:100": Room(232448, 112, 3, 8, _NVIDIA, _NVIDIA_TILED, Pace(148, (4096, 128, 64), 64, 29, 1000, 64)),
        "cuda:80": Room(166912, 96, 3, 6, _NVIDIA, _NVIDIA_TILED, Pace(108, (1024, 64, 32), 40, 13, 800)),
        "cuda": Room(101376, 96, 2, 4, _NVIDIA, _NVIDIA_TILED, Pace(84, (512, 128, 2), 32, 6, 800)),
        "hip": Room(65536, 96, 2, 2, _AMD, _AMD_TILED, Pace(304, (1024, 128, 64), 40, 8, 1200)),
    }
)


def room_of(target: Target) -> Room:
    """The room of a target."""
    return ROOMS.get(target.name) or ROOMS[target.kind]


def units_of(target: Target) -> int:
    """How many programs of the largest size a target carries out at a time."""
    return target.units or room_of(target).pace.units
