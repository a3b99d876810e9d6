"""What a malformed item of an annotation was most likely meant to be, and where it stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from tessera.diag import Diagnostic, Help, Label, Span, TesseraError, expression_parts
from tessera.ir.dtype import DTYPES, dtype, is_dtype_name

_PRODUCT = re.compile(r"([0-9]+) ?([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_SIZED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*) ?[:=] ?([0-9]+)", re.ASCII)
_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*([.\-$@][A-Za-z0-9_]+)+", re.ASCII)
#: Longest text whose pieces are looked at.
_LONGEST = 120
#: dtypes that Python has a name for.
_BUILTIN = ("int", "float", "bool")


def dtype_text(name: str) -> str | None:
    """A dtype as an annotation has it, from its name in quotes: ``tessera.int64`` for ``"long"``."""
    bare = name.strip().removeprefix("torch.").removeprefix("tessera.")
    if not is_dtype_name(bare):
        return None
    return bare if bare in _BUILTIN else f"tessera.{dtype(bare).name}".replace("tessera.bool", "bool")


def advice(text: str, reads: Callable[[str], object]) -> list[str]:
    """Items that say what a text was meant to say, written as in an annotation; ``reads`` raises for what is no item.

    >>> from tessera.ir.dim_parse import parse_dim
    >>> advice("B S", parse_dim), advice("2D", parse_dim), advice("seq.len", parse_dim)
    (['"B"', '"S"'], ['"2*D"'], ['"seq_len"'])
    """
    if len(text) > _LONGEST:
        return []
    if found := _PRODUCT.fullmatch(text.strip()):
        return [f'"{found[1]}*{found[2]}"']
    if found := _SIZED.fullmatch(text.strip()):
        return [found[2]]
    if _DOTTED.fullmatch(text.strip()):
        return [f'"{re.sub("[^A-Za-z0-9_]", "_", text.strip())}"']
    return _pieces(text, reads)


def _pieces(text: str, reads: Callable[[str], object]) -> list[str]:
    """The items of a text that holds several."""
    lead, rest = ("...", text.strip()[3:]) if text.strip().startswith("...") else ("", text)
    for words in (_outside_brackets(rest), rest.replace(",", " ").split()):
        items = [word.strip() for word in words if word.strip()]
        if (len(items) < 2 and not lead and items != [text.strip(" ,")]) or not items:
            continue
        found = [f'"{lead}"'] if lead else []
        for at, item in enumerate(items):
            written = dtype_text(item) if at == len(items) - 1 else None
            variadic = item == "..." or (item[0] == "*" and item[1:].isidentifier())
            if written is None and not variadic and not _is_read(item, reads):
                break
            found.append(written or (item if item.isdecimal() else f'"{item}"'))
        else:
            return found
    return []


def _outside_brackets(text: str) -> list[str]:
    """Split at the commas outside of parentheses."""
    parts, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def _is_read(item: str, reads: Callable[[str], object]) -> bool:
    try:
        reads(item)
    except TesseraError:
        return False
    return True


def placed(error: TesseraError, span: Span | None, text: str, reads: Callable[[object], object]) -> TesseraError:
    """The error at the item that it is about, where the annotation ``span`` shows it; advice becomes a fix there."""
    if span is None:
        return error
    item = _faulty(span, reads)
    first = error.diagnostics[0]
    helps = [replace(one, span=item) if one.replacement is not None else one for one in first.helps]
    label = Label(span if item is None else item, text, True)
    return type(error).from_diagnostics([Diagnostic(first.code, first.message, (label,), first.notes, tuple(helps))])


def _faulty(span: Span, reads: Callable[[object], object]) -> Span | None:
    """The first item in the brackets of an annotation that cannot be read."""
    parts = expression_parts(span)
    if parts is None or parts.kind != "subscript":
        return None
    for item in parts.operands[1:]:
        try:
            value = ast.literal_eval(item.text() or "")
        except (ValueError, SyntaxError):
            continue
        try:
            reads(value)
        except TesseraError:
            return item
    return None


def written(items: Sequence[str], before: str = "") -> list[Help]:
    """The advice to write these items in the place of a faulty one."""
    text = ", ".join(items)
    return [Help(f"write: Tensor[{before}{text}]", None, text)] if items else []


def known_dtypes() -> str:
    """The dtypes there are, for people."""
    return ", ".join(DTYPES)
