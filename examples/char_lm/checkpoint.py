"""Checkpoints of two files: tensors, and a JSON that names them with their digest.

The JSON is what makes a checkpoint: it is put in place last, in one step, and only then are older tensors removed. So
whenever writing ends early, the JSON that is there names tensors that are whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from examples.char_lm.config import Config
from examples.char_lm.data import Position
from examples.char_lm.errors import BadOption, BrokenCheckpoint, NotSaved

HEAD = "checkpoint.json"
FORMAT = 1
_TENSORS = re.compile(r"step-[0-9]{8,}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after ``step`` steps. ``random`` is that of torch's generator, in hex digits."""

    step: int
    config: Config
    characters: str
    corpus: str
    position: Position
    schedule: Mapping[str, Any]
    random: str
    tensors: Mapping[str, torch.Tensor]


def put(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, and a former one stays until then. Raises OSError."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _settle(path.parent)


def _settle(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(folder: Path, found: Checkpoint) -> None:
    """Write a checkpoint in the place of the one before. Raises NotSaved; then that one is still there."""
    content = safetensors.torch.save(dict(found.tensors))
    name = f"step-{found.step:08d}.safetensors"
    head = {
        "format": FORMAT, "step": found.step, "config": asdict(found.config), "characters": found.characters,
        "corpus": found.corpus, "position": asdict(found.position), "schedule": dict(found.schedule),
        "random": found.random, "tensors": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        put(folder / name, content)
        put(folder / HEAD, (json.dumps(head, indent=2) + "\n").encode())
    except OSError as error:
        raise NotSaved(f"the checkpoint of step {found.step} was not written to {folder}: {error.strerror}") from None
    for old in folder.glob("step-*.safetensors*"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load(folder: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises BrokenCheckpoint."""
    path = folder / HEAD
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BrokenCheckpoint(f"there is no checkpoint in {folder}") from None
    except OSError as error:
        raise BrokenCheckpoint(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BrokenCheckpoint(f"{path} is truncated or changed: {error}") from None
    try:
        if head["format"] != FORMAT:
            raise BrokenCheckpoint(f"{path} has format {head['format']}, not {FORMAT}")
        tensors = _tensors(folder, str(head["tensors"]), head["bytes"], head["sha256"])
        position = Position(**{name: int(head["position"][name]) for name in ("epoch", "at")})
        config = Config.of(head["config"], "its config")
        bytes.fromhex(head["random"])
        return Checkpoint(
            int(head["step"]), config, str(head["characters"]), str(head["corpus"]), position, dict(head["schedule"]),
            head["random"], tensors,
        )  # fmt: skip
    except BrokenCheckpoint:
        raise
    except (KeyError, TypeError, ValueError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else error
        kind = "is of another run" if isinstance(error, BadOption) else "is not what was written"
        raise BrokenCheckpoint(f"{path} {kind}: {said}") from None


def _tensors(folder: Path, name: str, size: int, digest: str) -> dict[str, torch.Tensor]:
    """The tensors of a file that is what was written."""
    path = folder / name
    if not _TENSORS.fullmatch(name):
        raise BrokenCheckpoint(f"{folder / HEAD} names the tensors {name!r}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BrokenCheckpoint(f"{path} cannot be read: {error.strerror}") from None
    if len(content) != size:
        raise BrokenCheckpoint(f"{path} has {len(content)} of {size} bytes")
    if hashlib.sha256(content).hexdigest() != digest:
        raise BrokenCheckpoint(f"{path} is not what was written: its digest differs")
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError) as error:
        raise BrokenCheckpoint(f"{path} cannot be read: {error}") from None
