"""The options of a run: a frozen dataclass whose every field is an option of the command line and a key of its JSON."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from examples.char_lm.errors import BadOption, ConfigMismatch

BACKENDS = ("compiled", "eager", "torch.compile")


def _option(default: Any, doc: str, *, low: float | None = None, high: float = math.inf, same: bool = True) -> Any:
    """A field with its range. ``same``: a run that is resumed must have the value that it began with."""
    return dataclasses.field(default=default, metadata={"doc": doc, "low": low, "high": high, "same": same})


@dataclass(frozen=True)
class Config:
    """A run. Raises BadOption with everything that is wrong.

    >>> Config(width=64).heads
    4
    >>> Config(width=64, heads=5, lr=-1.0)
    Traceback (most recent call last):
    examples.char_lm.errors.BadOption: lr is -1.0, not from 0 to inf; width 64 is not a multiple of 2 * heads, 10
    """

    corpus: str = _option("", "path of a UTF-8 text; empty: the one that comes with the example")
    out: str = _option("runs/char_lm", "folder of the results", same=False)
    backend: str = _option("compiled", f"what runs the model: {', '.join(BACKENDS)}", same=False)
    width: int = _option(128, "size of the vectors", low=1)
    depth: int = _option(4, "blocks", low=1)
    heads: int = _option(4, "heads of attention", low=1)
    hidden: int = _option(512, "gated channels of each block", low=1)
    context: int = _option(128, "characters of a window", low=2)
    dropout: float = _option(0.0, "what is dropped out while training; backends draw different numbers", low=0, high=1)
    batch: int = _option(8, "windows of a micro-batch", low=1)
    accumulate: int = _option(1, "micro-batches of a step", low=1)
    steps: int = _option(60, "steps of the whole run", low=1)
    warmup: int = _option(6, "steps over which the learning rate rises", low=0)
    lr: float = _option(1e-3, "highest learning rate", low=0)
    floor: float = _option(0.1, "last learning rate, as a part of the highest", low=0, high=1)
    decay: float = _option(0.01, "weight decay", low=0)
    clip: float = _option(1.0, "greatest norm of the gradients", low=0)
    seed: int = _option(0, "of the first weights, the order of the text and the sample", low=0, high=2**31 - 1)
    held_out: float = _option(0.1, "part of the text, at its end, that is only evaluated", low=0.001, high=0.9)
    eval_every: int = _option(30, "steps between evaluations", low=1)
    eval_batches: int = _option(4, "micro-batches of an evaluation", low=1)
    save_every: int = _option(30, "steps between checkpoints", low=1, same=False)
    stop: int = _option(0, "end after this step with a checkpoint, to be resumed; 0: do all", low=0, same=False)
    sample: int = _option(200, "characters written at the end", low=0, same=False)
    temperature: float = _option(0.8, "of the sample: lower is more probable text", low=0.01, high=100, same=False)

    def __post_init__(self) -> None:
        wrong = [text for field in dataclasses.fields(self) for text in _wrong(field, getattr(self, field.name))]
        if not wrong or all(" is not a multiple" in text for text in wrong):
            wrong += self._together()
        elif type(self.width) is type(self.heads) is int and self.heads > 0 and self.width % (2 * self.heads):
            wrong += [f"width {self.width} is not a multiple of 2 * heads, {2 * self.heads}"]
        if wrong:
            raise BadOption("; ".join(wrong))

    def _together(self) -> list[str]:
        wrong = []
        if self.width % (2 * self.heads):
            wrong.append(f"width {self.width} is not a multiple of 2 * heads, {2 * self.heads}")
        if self.warmup >= self.steps:
            wrong.append(f"warmup is {self.warmup} of {self.steps} steps")
        if self.dropout == 1:
            wrong.append("dropout is 1, which leaves nothing")
        return wrong

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @staticmethod
    def of(values: object, what: str = "the config") -> Config:
        """The config of a JSON object; fields that are left out have their defaults. Raises BadOption."""
        if not isinstance(values, Mapping):
            raise BadOption(f"{what} is no JSON object")
        unknown = [_unknown(str(name)) for name in values if name not in FIELDS]
        if unknown:
            raise BadOption(f"{what} has {'; '.join(unknown)}")
        whole = {n: float(v) if type(FIELDS[n].default) is float and type(v) is int else v for n, v in values.items()}
        return Config(**whole)


FIELDS: Mapping[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Config)}


def _wrong(field: dataclasses.Field[Any], value: object) -> list[str]:
    """What is wrong with a value of a field by itself."""
    kind, low, high = type(field.default), field.metadata["low"], field.metadata["high"]
    if type(value) is not kind:
        return [f"{field.name} is {value!r}, not {'a text' if kind is str else f'of type {kind.__name__}'}"]
    if field.name == "backend" and value not in BACKENDS:
        return [f"backend is {value!r}, not one of {', '.join(BACKENDS)}"]
    if low is not None and not (low <= value <= high and math.isfinite(value)):  # type: ignore[operator, arg-type]
        return [f"{field.name} is {value}, not from {low} to {high}"]
    return []


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, FIELDS, 1)
    return f"no field {name}" + (f" (is {close[0]} meant?)" if close else "")


def same_run(given: Mapping[str, Any], saved: Config) -> Config:
    """The config of a checkpoint with what was given anew. Raises ConfigMismatch, with every field that must not
    change.

    >>> same_run({"out": "elsewhere"}, Config()).out
    'elsewhere'
    >>> same_run({"width": 64, "depth": 2}, Config())
    Traceback (most recent call last):
    examples.char_lm.errors.ConfigMismatch: width is 128 in the checkpoint and 64 here; depth is 4 in the checkpoint \
and 2 here
    """
    differ = [
        f"{name} is {getattr(saved, name)!r} in the checkpoint and {value!r} here"
        for name, value in given.items()
        if FIELDS[name].metadata["same"] and getattr(saved, name) != value
    ]
    if differ:
        raise ConfigMismatch("; ".join(differ))
    return dataclasses.replace(saved, **given)


class _Parser(argparse.ArgumentParser):
    """Raises BadOption where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        raise BadOption(f"{message} (--help lists the options)")


def parser(program: str, doc: str) -> argparse.ArgumentParser:
    """The options of the command line: those of a run, ``--config`` and ``--resume``."""
    found = _Parser(prog=program, description=doc, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    found.add_argument("--config", type=Path, metavar="FILE", help="options as JSON; those given here come first")
    found.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder of the results")
    for field in FIELDS.values():
        shown = f"{field.metadata['doc']} (default: {'—' if field.default == '' else field.default})"
        found.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), help=shown)
    return found


def given(arguments: Sequence[str] | None, program: str, doc: str) -> tuple[dict[str, Any], bool]:
    """The options that were given, from the file and the command line, and whether to resume. Raises BadOption."""
    found = vars(parser(program, doc).parse_args(arguments))
    resume, path = found.pop("resume", False), found.pop("config", None)
    if path is None:
        return found, resume
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadOption(f"{path} cannot be read as JSON: {error}") from None
    Config.of(values, str(path))
    return {**values, **found}, resume
