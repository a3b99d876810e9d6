"""The command line: check, dump, opt, explain, compare, bench."""

from tessera.cli.main import main

__all__ = ["main"]
