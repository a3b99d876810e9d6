"""``python -m tessera COMMAND``: what each command takes, and what it prints."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

import tessera
from tessera import config
from tessera.cli.files import Files, Loaded, UsageError, expand
from tessera.cli.inputs import example, parse_sizes
from tessera.diag import CODES, Diagnostic, ResourceError, TesseraError, page, to_json, to_sarif
from tessera.ir.parser import parse_all
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.passes.base import apply
from tessera.passes.pipeline import PASSES, PIPELINE

OK, FOUND, FAILED = 0, 1, 2
STATUS = "Exit status: 0 fine, 1 faults found in a program, 2 the command could not do its work."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0 fine, 1 faults were found in a program, 2 the command could not do its work."""
    given = list(sys.argv[1:] if argv is None else argv)
    # The benchmarks have options and help of their own, which this parser would refuse.
    own = argparse.Namespace(run=bench, args=given[1:]) if given[:1] == ["bench"] else None
    options = own or _parser().parse_args(given)
    try:
        return int(options.run(options))
    except TesseraError as error:
        print(error.render(color=config.color_wanted(sys.stderr)), file=sys.stderr)
        return FAILED if isinstance(error, ResourceError) else FOUND
    except UsageError as error:
        print(error, file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # who reads the output has seen enough, and so must not be told when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        print(f"{error.filename}: {error.strerror}" if error.filename else error, file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tessera",
        description="Prove, inspect and measure functions decorated with @tessera.function.",
        epilog="Start with `python -m tessera check your_file.py`. FILE:NAME means the function NAME of FILE.\n\n"
        + STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tessera {tessera.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _check_parser(commands)
    _dump_parser(commands)
    _opt_parser(commands)
    _explain_parser(commands)
    _compare_parser(commands)
    _command(commands, "bench", bench, "run the benchmarks of this checkout", "`bench --help` lists its options.")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: Callable[[argparse.Namespace], int],
    summary: str, teaching: str,
) -> argparse.ArgumentParser:  # fmt: skip
    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"{teaching}\n\n{STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


# ---- check -----------------------------------------------------------------------------------------------------------


def _check_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _command(
        commands, "check", check, "prove the shapes of every decorated function, without data",
        "Each file is imported, inside its package where it is in one, so guard programs with\n"
        "`if __name__ == \"__main__\"`. In folders, files called __main__.py are left out.\n"
        "Verdicts: proved (for every size), guarded (checked at a call), refuted (an error), deferred (needs a call).\n"
        "A file that cannot be run is status 2, whatever the others have.\n\n"
        "  python -m tessera check model.py\n  python -m tessera check src --format sarif > findings.sarif",
    )  # fmt: skip
    p.add_argument("paths", nargs="+", metavar="PATH", help="Python files, or folders of them")
    p.add_argument("--format", choices=("text", "json", "sarif"), default="text", help="how to print (default: text)")
    p.add_argument("--quiet", action="store_true", help="print only what is refuted")


def check(options: argparse.Namespace) -> int:
    """The ``check`` command."""
    diagnostics: list[Diagnostic] = []
    lines: list[str] = []
    loaded: list[Loaded] = []
    with Files() as files:
        for path in dict.fromkeys(expand(options.paths)):
            loaded.append(one := files.load(path))
            for f in one.functions.values():
                report = f.check()
                diagnostics += report.diagnostics
                if not (options.quiet and report.ok):
                    lines.append(str(report))
            _failure(one, diagnostics, lines)
    if options.format == "json":
        print(to_json(diagnostics))
    elif options.format == "sarif":
        print(to_sarif(diagnostics, tessera.__version__))
    else:
        print("\n\n".join(lines) if lines else "nothing to report")
        count = sum(len(one.functions) for one in loaded)
        print(f"\n{_count(count, 'function')} in {_count(len(loaded), 'file')}, {len(diagnostics)} refuted")
    if options.format != "text":
        sys.stderr.writelines(f"{one.reason}\n" for one in loaded if _unrun(one))
    if any(map(_unrun, loaded)):
        return FAILED
    return FOUND if diagnostics else OK


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _unrun(one: Loaded) -> bool:
    """Whether a file failed for a reason of its own, that is no fault which Tessera found in it."""
    return one.failure is not None and not isinstance(one.failure, TesseraError)


def _failure(one: Loaded, diagnostics: list[Diagnostic], lines: list[str]) -> None:
    if isinstance(one.failure, TesseraError):
        diagnostics += one.failure.diagnostics
        lines.append(one.failure.render(color=config.color_wanted(sys.stdout)))
    elif one.failure is not None:
        lines.append(one.reason)


# ---- dump ------------------------------------------------------------------------------------------------------------


def _dump_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _command(
        commands, "dump", dump, "print the IR or the kernels of a function",
        f"Stages: traced, {', '.join(PASSES)}, fused, tile (the loops of the kernels), source (their text).\n\n"
        "  python -m tessera dump model.py:rms_norm\n"
        "  python -m tessera dump model.py:rms_norm --stage source --target cuda:90",
    )  # fmt: skip
    p.add_argument("target_function", metavar="FILE:NAME")
    p.add_argument("--stage", default="fused", help="what to print (default: fused)")
    p.add_argument("--backend", choices=("c", "triton"), help="whose source `--stage source` prints")
    p.add_argument("--target", help="for `--stage source`: cpu, cuda:80, cuda:90, hip:gfx942")


def dump(options: argparse.Namespace) -> int:
    """The ``dump`` command."""
    if options.stage != "source" and (options.target or options.backend):
        raise UsageError("`--target` and `--backend` go with `--stage source`: other stages are the same for all")
    with Files() as files:
        f = files.pick(options.target_function)
        source = options.stage == "source"
        print(f.lower(backend=options.backend, target=options.target) if source else f.ir(options.stage))
    return OK


# ---- opt -------------------------------------------------------------------------------------------------------------


def _opt_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    table = "\n".join(f"  {row.step.name:<14}{row.reason}" for row in PIPELINE)
    p = _command(
        commands, "opt", opt, "read IR text, run passes, print IR text",
        f"Nothing is compiled or run. Passes, in their usual order:\n{table}\n\n"
        "  python -m tessera dump model.py:f --stage traced | python -m tessera opt - -p canonicalize,fuse",
    )  # fmt: skip
    p.add_argument("file", metavar="FILE", help="a file with IR text, or - for standard input")
    p.add_argument(
        "-p", "--passes", default="", help="comma-separated passes (default: none, which checks and reprints)"
    )
    p.add_argument("--no-spans", action="store_true", help="leave out the source lines")


def opt(options: argparse.Namespace) -> int:
    """The ``opt`` command."""
    text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
    functions = parse_all(text)
    for name in filter(None, options.passes.split(",")):
        if name not in PASSES:
            raise UsageError(f"no pass `{name}`{_close(name, PASSES)}; there are {', '.join(PASSES)}")
        functions = tuple(apply(PASSES[name], f, verify) for f in functions)
    print("\n".join(print_function(f, spans=not options.no_spans) for f in functions), end="")
    return OK


# ---- explain ---------------------------------------------------------------------------------------------------------


def _explain_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _command(
        commands, "explain", explain, "explain an error code, or what was done to a function",
        "  python -m tessera explain TSR0201\n  python -m tessera explain model.py:rms_norm",
    )  # fmt: skip
    p.add_argument("what", metavar="CODE|FILE:NAME")


def explain(options: argparse.Namespace) -> int:
    """The ``explain`` command."""
    code = options.what.upper()
    if code in CODES:
        print(page(code))
    elif code.startswith("TSR") and code[3:].isdecimal():
        raise UsageError(f"no code {code}{_close(code, CODES)}; there are {', '.join(CODES)}")
    else:
        with Files() as files:
            f = files.pick(options.what)
            print(f.explain(), f.cost(), sep="\n\n")
    return OK


def _close(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; `{found[0]}` is close" if found else ""


# ---- compare and bench -----------------------------------------------------------------------------------------------


def _compare_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _command(
        commands, "compare", compare, "run a function fused and eagerly, and both against float64",
        "Arguments are random, of the declared shapes; sizes not given are 256.\n\n"
        "  python -m tessera compare model.py:rms_norm --size B=8 --size S=512 --size D=2048",
    )  # fmt: skip
    p.add_argument("target_function", metavar="FILE:NAME")
    p.add_argument("--size", action="append", default=[], metavar="NAME=N", help="the size of a dimension; repeatable")
    p.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--backend", choices=("c", "triton", "eager"), help="what `fused` means (default: by device)")


def compare(options: argparse.Namespace) -> int:
    """The ``compare`` command."""
    sizes = parse_sizes(options.size)
    with Files() as files, config.override(**({"backend": options.backend} if options.backend else {})):
        f = files.pick(options.target_function)
        print(tessera.compare(f, *example(f, sizes, getattr(torch, options.dtype), options.seed)))
    return OK


def bench(options: argparse.Namespace) -> int:
    """The ``bench`` command."""
    try:
        import benchmarks
    except ImportError:
        raise UsageError("the benchmarks are part of a source checkout: run this from its folder") from None
    return int(benchmarks.main(options.args))
