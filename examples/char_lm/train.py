"""The trainer: steps, evaluations, and the state between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from examples.char_lm import data, model
from examples.char_lm.checkpoint import Checkpoint
from examples.char_lm.config import Config
from examples.char_lm.data import Batches, Corpus, Position
from examples.char_lm.errors import ConfigMismatch, NotFinite
from tessera import optim

Record = dict[str, float | int]


class Trainer:
    """A run on a corpus, at its beginning or at a checkpoint."""

    def __init__(self, config: Config, corpus: Corpus) -> None:
        self.config, self.corpus, self.done = config, corpus, 0
        needed = data.least(config.context, config.batch)
        train, self.held_out = corpus.split(config.held_out, needed)
        self.loss, self.decoder = model.build(len(corpus.characters), config)
        self.parameters: Mapping[str, torch.nn.Parameter] = dict(self.decoder.named_parameters())
        self.batches = Batches(train, config.context, config.batch, config.seed, Position())
        options: dict[str, Any] = {"lr": config.lr, "betas": (0.9, 0.99), "weight_decay": config.decay}
        self.optimizer: torch.optim.Optimizer
        if config.backend == "compiled":  # one kernel clips and updates
            self.optimizer = optim.AdamW(self.parameters.values(), max_norm=config.clip, **options)
        else:
            self.optimizer = torch.optim.AdamW(self.parameters.values(), fused=True, **options)
        self.schedule = optim.lr.cosine(self.optimizer, config.steps, config.warmup, config.floor)

    # -- one step

    def step(self) -> Record:
        """One update of the parameters, and what the log says of it. Raises NotFinite; then nothing was updated, or,
        where only the gradients were not finite, must not be saved.
        """
        config, total = self.config, 0.0
        self.optimizer.zero_grad()
        for _ in range(config.accumulate):
            loss = self.loss(*self.batches.next()) / config.accumulate
            loss.backward()
            total += loss.item()
        self._finite("loss", total)
        rate = self.schedule.get_last_lr()[0]
        norm = self._update()
        self._finite("norm of the gradients", norm)
        self.schedule.step()
        self.done += 1
        return {"step": self.done, "loss": total, "lr": rate, "grad_norm": norm}

    def _update(self) -> float:
        """Clip and update; gives the norm that the gradients had."""
        if isinstance(self.optimizer, optim.AdamW):
            self.optimizer.step()
            return float(self.optimizer.grad_norm)  # type: ignore[arg-type]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        self.optimizer.step()
        return float(norm)

    def _finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise NotFinite(f"the {what} is {value} in step {self.done + 1}")

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean loss on windows of the held-out text, spread evenly over it."""
        config = self.config
        whole = len(self.held_out) - config.context - 1
        count = config.batch * config.eval_batches
        starts = (torch.arange(count) * whole // max(count - 1, 1)).split(config.batch)
        self.loss.eval()
        losses = [self.loss(*data.windows(self.held_out, s, config.context)).item() for s in starts]
        self.loss.train()
        return sum(losses) / len(losses)

    @torch.no_grad()
    def write(self, count: int, temperature: float) -> str:
        """Text that goes on from the end of what was trained on, of ``count`` characters."""
        draw = torch.Generator().manual_seed(self.config.seed)
        known = self.batches.tokens[-self.config.context :]
        self.decoder.eval()
        for _ in range(count):
            logits = self.decoder(known[None, -self.config.context :])[0, -1]
            chosen = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=draw)
            known = torch.cat([known, chosen])
        self.decoder.train()
        return self.corpus.decode(known[self.config.context :])

    # -- state

    def checkpoint(self) -> Checkpoint:
        """The whole state, from which a run goes on as if it had not ended."""
        tensors = {f"model.{name}": p.detach() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            tensors |= {f"optimizer.{kind}.{name}": x for kind, x in self.optimizer.state[p].items()}
        return Checkpoint(
            self.done, self.config, self.corpus.characters, self.corpus.digest, self.batches.position,
            {name: value for name, value in self.schedule.state_dict().items() if name != "lr_lambdas"},
            torch.get_rng_state().numpy().tobytes().hex(), {name: x.contiguous() for name, x in tensors.items()},
        )  # fmt: skip

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint of the same config. Raises ConfigMismatch where the text is another one."""
        if saved.corpus != self.corpus.digest:
            raise ConfigMismatch("the corpus is not the text that the run of the checkpoint reads")
        kinds = ("step", "exp_avg", "exp_avg_sq")
        self.decoder.load_state_dict({name: saved.tensors[f"model.{name}"] for name in self.parameters})
        state = self.optimizer.state_dict()
        state["state"] = {
            n: {kind: saved.tensors[f"optimizer.{kind}.{name}"] for kind in kinds}
            for n, name in enumerate(self.parameters)
        }
        self.optimizer.load_state_dict(state)
        self.schedule.load_state_dict({**saved.schedule, "lr_lambdas": [None]})
        for group, rate in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate
        position = saved.position
        config = self.config
        self.batches = Batches(self.batches.tokens, config.context, config.batch, config.seed, position)
        torch.set_rng_state(torch.frombuffer(bytearray.fromhex(saved.random), dtype=torch.uint8))
        self.done = saved.step
