"""The text as numbers, and the order in which a run reads it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from examples.char_lm.errors import NoCorpus

SHIPPED = Path(__file__).resolve().parent / "shakespeare.txt"


@dataclass(frozen=True)
class Corpus:
    """A text, and its characters in their order."""

    text: str
    characters: str

    @staticmethod
    def of(text: str) -> Corpus:
        """
        >>> Corpus.of("to be").characters
        ' beot'
        """
        return Corpus(text, "".join(sorted(set(text))))

    @cached_property
    def tokens(self) -> torch.Tensor:
        """The text, int64 [characters of the text]: each character by its number."""
        number = {c: n for n, c in enumerate(self.characters)}
        return torch.tensor([number[c] for c in self.text], dtype=torch.int64)

    @cached_property
    def digest(self) -> str:
        """What tells this text from others."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def split(self, held_out: float, needed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens to train on, and the last part, to evaluate. Raises NoCorpus where one has fewer than needed."""
        cut = len(self.text) - int(len(self.text) * held_out)
        parts = self.tokens[:cut], self.tokens[cut:]
        for part, name in zip(parts, ("train on", "evaluate"), strict=True):
            if len(part) < needed:
                raise NoCorpus(f"the corpus has {len(part)} characters to {name}, and a batch takes {needed}")
        return parts

    def decode(self, tokens: torch.Tensor) -> str:
        """The text of numbers ``[n]``."""
        return "".join(self.characters[n] for n in tokens.tolist())


def read(path: str) -> Corpus:
    """The corpus of a file, the shipped one where the path is empty. Raises NoCorpus."""
    file = Path(path) if path else SHIPPED
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise NoCorpus(f"the corpus {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise NoCorpus(f"the corpus {file} is no UTF-8 text: byte {error.start} is not") from None
    return Corpus.of(text)


@dataclass(frozen=True)
class Position:
    """Where a run is in the text: how often it went through, and how many windows of this time it has read."""

    epoch: int = 0
    at: int = 0


class Batches:
    """Batches of windows without an end; ``position`` is all that has to be kept to go on.

    Every epoch begins at another character and reads windows that do not overlap, in a random order that follows from
    the seed and the number of the epoch.
    """

    def __init__(self, tokens: torch.Tensor, context: int, batch: int, seed: int, position: Position) -> None:
        self.tokens, self.context, self.batch, self.seed = tokens, context, batch, seed
        self.position = position
        self._starts = self._order(position.epoch)

    def _order(self, epoch: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        shift = int(torch.randint(self.context, (), generator=draw))
        count = (len(self.tokens) - 1 - shift) // self.context
        return torch.randperm(count, generator=draw) * self.context + shift

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Characters and those that follow them, int64 ``[batch, context]`` each."""
        epoch, at = self.position.epoch, self.position.at
        if at + self.batch > len(self._starts):
            epoch, at = epoch + 1, 0
            self._starts = self._order(epoch)
        self.position = Position(epoch, at + self.batch)
        return windows(self.tokens, self._starts[at : at + self.batch], self.context)


def least(context: int, batch: int) -> int:
    """The characters that a text needs for one batch wherever its windows begin."""
    return context * (batch + 1) + 1


def windows(tokens: torch.Tensor, starts: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The windows that begin at ``starts [B]``, and the same ones a character later.

    >>> ids, targets = windows(torch.arange(10), torch.tensor([2]), 3)
    >>> ids.tolist(), targets.tolist()
    ([[2, 3, 4]], [[3, 4, 5]])
    """
    every = tokens.unfold(0, context, 1)
    return every[starts], every[starts + 1]
