"""Train a decoder of a million parameters on a text, character by character, and let it write some text of its own.

    python examples/train_char_lm.py                                # a short run
    python examples/train_char_lm.py --steps 2000 --warmup 100      # a model that writes words
    python examples/train_char_lm.py --resume                       # go on from the last checkpoint
    python examples/train_char_lm.py --backend eager                # the same curve, through torch alone

In the folder of the results: config.json, log.jsonl, checkpoint.json with its tensors, loss.png and sample.txt.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a program: the tree is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.char_lm import checkpoint, config, data, report
from examples.char_lm.config import Config
from examples.char_lm.errors import NotFinite, NotSaved, TrainingError
from examples.char_lm.train import Trainer
from tessera.driver.progress import Progress


def prepared(arguments: Sequence[str] | None) -> Trainer:
    """The trainer that the command line asks for, at its beginning or at a checkpoint. Raises TrainingError."""
    given, resume = config.given(arguments, "train_char_lm.py", (__doc__ or "").splitlines()[0])
    fresh = Config.of(given)
    if not resume:
        return Trainer(fresh, data.read(fresh.corpus))
    saved = checkpoint.load(Path(fresh.out))
    whole = config.same_run(given, saved.config)
    trainer = Trainer(whole, data.read(whole.corpus))
    trainer.restore(saved)
    return trainer


def train(trainer: Trainer) -> list[dict[str, float | int]]:
    """Do the steps that are left, with log, evaluations and checkpoints; gives the records. Raises TrainingError."""
    options = trainer.config
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.put(out / "config.json", options.dumps().encode())
    last = min(options.stop or options.steps, options.steps)
    saved = trainer.done
    with report.Log(out / "log.jsonl", trainer.done) as log, Progress("train", last) as progress:
        progress.step(count=trainer.done)
        try:
            while trainer.done < last:
                record = trainer.step()
                if trainer.done % options.eval_every == 0 or trainer.done == options.steps:
                    record["held_out"] = trainer.evaluate()
                log.add(record)
                progress.step(f"loss {record['loss']:.3f}")
                if trainer.done % options.save_every == 0 or trainer.done == last:
                    checkpoint.save(out, trainer.checkpoint())
                    saved = trainer.done
        except (NotFinite, NotSaved) as error:
            raise type(error)(f"{error}; {_last(saved, out)}") from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped in step {trainer.done + 1}; {_last(saved, out)}") from None
        return log.records


def _last(step: int, out: Path) -> str:
    return f"the last checkpoint is of step {step}, in {out}" if step else "there is no checkpoint yet"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, plot and write; an error is one line."""
    try:
        trainer = prepared(arguments)
        options = trainer.config
        count = sum(p.numel() for p in trainer.parameters.values())
        print(f"{count} parameters, {len(trainer.corpus.text)} characters, backend {options.backend}", flush=True)
        start, first = time.perf_counter(), trainer.done
        records = train(trainer)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt as error:
        print(f"\n{error or 'stopped'}", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - start
    out, tokens = Path(options.out), (trainer.done - first) * options.batch * options.accumulate * options.context
    for record in records:
        if "held_out" in record:
            print(f"step {record['step']:>5}  loss {record['loss']:.4f}  held out {record['held_out']:.4f}")
    print(f"{tokens / seconds:.0f} characters a second, compilation, evaluation and checkpoints included")
    report.plot(records, out / "loss.png")
    if options.sample and trainer.done == options.steps:
        text = trainer.write(options.sample, options.temperature)
        checkpoint.put(out / "sample.txt", text.encode())
        print(f"-- a sample\n{text}\n--")
    print(f"results in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
