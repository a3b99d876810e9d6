"""Run the Python blocks of a Markdown file: ``python -m tests.house.snippets README.md``.

All blocks of a file are one program, in order. Comments in them are claims that are checked:

- ``value  # revealed: f32[B, S]``: the type of the value, or of the name just assigned, as Tessera writes it;
  inside a function it is checked when that runs, so inside a traced one it is the traced type;
- ``print(x)  # prints: 3``, or ``# prints: …`` lines below a top-level statement: what it writes, line by
  line; a line that ends in ``…`` may go on, and a last line that is only ``…`` stands for any further lines;
- ``# error: [TSR0202]`` at the end of a line: the block raises that code.

Each block is run from a script of its own whose code stands on the same line numbers as in the Markdown file,
so that tracebacks and diagnostics point at the document.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,}) *(?P<info>[^`]*)$")
_CLAIM = re.compile(r"#\s*(?P<kind>revealed|prints|error):\s?(?P<text>.*)$")
_CODE = re.compile(r"TSR\d{4}")
_TORCH_NAMES = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u"}


@dataclass(frozen=True)
class Block:
    """One fenced block: its code, and the 1-based line of the document that its first line stands on."""

    line: int
    code: str


@dataclass(frozen=True)
class Claim:
    """A checked comment and its 1-based line in the document."""

    line: int
    kind: str
    text: str


class SnippetError(AssertionError):
    """A document says something that is not so."""


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced ``python`` blocks of a document, dedented to their fence."""
    lines = markdown.splitlines()
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        at += 1
        if opening is None:
            continue
        start, indent, ticks = at, len(opening["indent"]), opening["ticks"]
        while at < len(lines) and not (lines[at].strip().startswith(ticks) and not lines[at].strip(" `~")):
            at += 1
        if opening["info"].split(" ")[0].strip() == "python":
            yield Block(start + 1, "\n".join(line[indent:] for line in lines[start:at]) + "\n")
        at += 1


def claims(block: Block) -> Iterator[Claim]:
    """The checked comments of a block, in order."""
    for offset, line in enumerate(block.code.splitlines()):
        if found := _CLAIM.search(line):
            yield Claim(block.line + offset, found["kind"], found["text"].rstrip())


def type_text(value: object) -> str:
    """The type of a value the way IR text writes it: ``f32[2, 3]`` for a tensor, its own text otherwise."""
    own = getattr(value, "type", None)
    if own is not None and not callable(own):
        return str(own)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        return str(value)
    name = str(dtype)
    if name.startswith("torch."):
        name = name.removeprefix("torch.")
        stem = name.rstrip("0123456789")
        name = _TORCH_NAMES.get(stem, stem) + name.removeprefix(stem)
    return f"{name}[{', '.join(map(str, shape))}]"


def run_document(path: Path) -> int:
    """Run every block of a document; returns their number, raises SnippetError or what a block raises."""
    found = list(blocks(path.read_text(encoding="utf-8")))
    names: dict[str, object] = {"__name__": "document"}
    with tempfile.TemporaryDirectory(prefix="tessera-docs-") as folder:
        for block in found:
            script = Path(folder) / f"{path.stem}_{block.line}.py"
            names = _run_block(block, script, names)
    return len(found)


def _run_block(block: Block, script: Path, names: dict[str, object]) -> dict[str, object]:
    stated = list(claims(block))
    errors = [claim for claim in stated if claim.kind == "error"]
    output = _Output()
    lines = ("\n" * (block.line - 1) + block.code).splitlines()
    _instrument(ast.parse("\n".join(lines)), lines, stated)
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = {**names, "_revealed_": _check_revealed, "_prints_": output.expect}
    try:
        with contextlib.redirect_stdout(output):
            result = runpy.run_path(str(script), init_globals=given, run_name="document")
    except Exception as error:
        if not errors:
            raise
        _check_error(error, errors[0])
        return names
    if errors:
        raise SnippetError(f"line {errors[0].line}: nothing was raised, {errors[0].text} was said")
    return {name: value for name, value in result.items() if not name.startswith("__") or name == "__name__"}


def _instrument(tree: ast.Module, lines: list[str], stated: list[Claim]) -> None:
    """Add the checks to the code; no line moves."""
    simple = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not hasattr(node, "body")]
    for claim in stated:
        holder = next((s for s in simple if s.lineno <= claim.line <= (s.end_lineno or s.lineno)), None)
        if claim.kind == "revealed":
            _append(lines, holder, f"_revealed_({_subject(holder, claim)}, {claim.text!r}, {claim.line})")
    for run in _runs([claim for claim in stated if claim.kind == "prints"], lines):
        first = run[0].line
        check = f"_prints_({[claim.text for claim in run]!r}, {first})"
        holder = next((s for s in simple if s.lineno <= first <= (s.end_lineno or s.lineno)), None)
        if holder is not None:
            _append(lines, holder, check)
        else:
            lines[first - 1] = check


def _append(lines: list[str], statement: ast.stmt | None, check: str) -> None:
    """Put ``check`` behind a statement, before whatever comment stands there."""
    assert statement is not None and statement.end_lineno is not None
    last = statement.end_lineno - 1
    code = lines[last].encode()[: statement.end_col_offset].decode()
    lines[last] = f"{code}; {check}  {lines[last][len(code) :].strip()}"


def _runs(found: list[Claim], lines: list[str]) -> Iterator[list[Claim]]:
    """Claims on consecutive lines belong together; one behind code starts anew."""
    run: list[Claim] = []
    for claim in found:
        alone = lines[claim.line - 1].lstrip().startswith("#")
        if run and not (alone and claim.line == run[-1].line + 1):
            yield run
            run = []
        run.append(claim)
    if run:
        yield run


def _subject(statement: ast.stmt | None, claim: Claim) -> str:
    if isinstance(statement, ast.Expr):
        return ast.unparse(statement.value)
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.targets[0])
    raise SnippetError(f"line {claim.line}: `# revealed:` needs an expression or an assignment")


def _check_revealed(value: object, text: str, line: int) -> None:
    if type_text(value) != text:
        raise SnippetError(f"line {line}: the type is {type_text(value)}, {text} was said")


def _check_error(error: Exception, claim: Claim) -> None:
    said = set(_CODE.findall(claim.text))
    found = set(getattr(error, "codes", None) or [getattr(error, "code", "")])
    if not said or not said <= found:
        raise SnippetError(f"line {claim.line}: {claim.text} was said, this was raised: {error!r}") from error


class _Output(io.StringIO):
    """What a document prints, compared statement by statement."""

    def expect(self, lines: list[str], at: int) -> None:
        """Compare what was written since the last call with ``lines``."""
        written = [line.rstrip() for line in self.getvalue().splitlines()]
        self.seek(0)
        self.truncate()
        shown = "\n".join(written)
        more = lines[-1] == "…"
        lines = lines[:-1] if more else lines
        if len(lines) > len(written) or (len(lines) < len(written) and not more):
            raise SnippetError(f"line {at}: {len(lines)} lines were said, this was printed:\n{shown}")
        for said, real in zip(lines, written, strict=False):
            whole = not said.endswith("…")
            if (real != said) if whole else not real.startswith(said[:-1].rstrip()):
                raise SnippetError(f"line {at}: `{said}` was said, this was printed:\n{shown}")


def main(arguments: list[str]) -> int:
    """Run the given documents; 0 when all of them hold."""
    failed = 0
    for name in arguments:
        try:
            print(f"{name}: {run_document(Path(name))} blocks", flush=True)
        except Exception as error:
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return min(failed, 1)


def serve() -> int:
    """Run what standard input names, one document and one file for its output a line, and answer each with a status.

    Every document has a fork of its own of this process, in which nothing ran yet and whose imports are done once.
    """
    import tessera  # noqa: F401  (and torch with it)

    for line in sys.stdin:
        document, output = line.rstrip("\n").split("\t")
        child = os.fork()
        if not child:
            written = os.open(output, os.O_WRONLY | os.O_CREAT)
            for stream, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), written, written)):
                os.dup2(descriptor, stream)
            code = main([document])
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(serve() if sys.argv[1:] == ["--serve"] else main(sys.argv[1:]))
