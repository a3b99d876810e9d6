"""Diagnostics for machines: JSON of our own, and SARIF 2.1.0."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from urllib.parse import quote

from tessera.diag.codes import CODES, read_page
from tessera.diag.model import Diagnostic, Help, Label
from tessera.diag.span import Span

#: Raised when a field of `to_json` changes its meaning or goes away.
JSON_VERSION = 1

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

Json = None | bool | int | str | Sequence["Json"] | Mapping[str, "Json"]


def to_json(diagnostics: Iterable[Diagnostic]) -> str:
    """The findings as one JSON object.

    `{"version": 1, "diagnostics": [{"code", "severity", "message", "labels", "notes", "helps"}]}`. Places
    are `{"file", "line", "column", "end_line", "end_column", "function"}` with lines from 1 and columns
    in characters from 0. The text is ASCII.

    >>> to_json([])
    '{"version": 1, "diagnostics": []}'
    """
    return json.dumps({"version": JSON_VERSION, "diagnostics": [_record(item) for item in diagnostics]})


def _record(diagnostic: Diagnostic) -> Json:
    primary = diagnostic.primary
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "labels": [
            {"text": label.text, "primary": label is primary, "span": _place(label.span)}
            for label in diagnostic.labels
        ],
        "notes": [{"text": note.text, "span": _place(note.span)} for note in diagnostic.notes],
        "helps": [
            {"text": item.text, "span": _place(item.span), "replacement": item.replacement}
            for item in diagnostic.helps
        ],
    }


def _place(span: Span | None) -> Json:
    if span is None:
        return None
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
        "function": span.function,
    }


def to_sarif(diagnostics: Iterable[Diagnostic], tool_version: str) -> str:
    """The findings as a SARIF 2.1.0 log with one run; the rules come from the code pages.

    Columns count Unicode code points from 1, as `columnKind` says.
    """
    found = tuple(diagnostics)
    codes = sorted({item.code for item in found})
    driver: Json = {
        "name": "tessera",
        "version": tool_version,
        "rules": [_rule(code) for code in codes],
    }
    run: Json = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(item, codes.index(item.code)) for item in found],
    }
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(code: str) -> Json:
    info = CODES.get(code)
    if info is None:
        return {"id": code}
    page = read_page(code)
    help_text = "\n".join(f"## {name}\n{text}" for name, text in page.sections.items() if name)
    return {
        "id": code,
        "name": info.error.__name__,
        "shortDescription": {"text": info.title},
        "fullDescription": {"text": page.sections["What it means"].strip()},
        "help": {"text": help_text, "markdown": help_text},
        "defaultConfiguration": {"level": "error"},
    }


def _result(diagnostic: Diagnostic, rule: int) -> Json:
    primary = diagnostic.primary
    facts = [diagnostic.message, *(note.text for note in diagnostic.notes)]
    facts += [f"help: {item.text}" for item in diagnostic.helps]
    result: dict[str, Json] = {
        "ruleId": diagnostic.code,
        "ruleIndex": rule,
        "level": diagnostic.severity,
        "message": {"text": "\n".join(facts)},
    }
    if primary is not None:
        others = [label for label in diagnostic.labels if label is not primary]
        result["locations"] = [_location(primary)]
        result["relatedLocations"] = [_location(label, index) for index, label in enumerate(others)]
    fixes = [fix for item in diagnostic.helps if (fix := _fix(item)) is not None]
    if fixes:
        result["fixes"] = fixes
    return result


def _location(label: Label, index: int | None = None) -> Json:
    location: dict[str, Json] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(label.span.file)},
            "region": _region(label.span),
        }
    }
    if label.text:
        location["message"] = {"text": label.text}
    if label.span.function:
        location["logicalLocations"] = [{"fullyQualifiedName": label.span.function, "kind": "function"}]
    return location if index is None else {"id": index, **location}


def _region(span: Span) -> Json:
    return {
        "startLine": span.line,
        "startColumn": span.column + 1,
        "endLine": span.end_line,
        "endColumn": span.end_column + 1,
    }


def _fix(item: Help) -> Json:
    if item.span is None or item.replacement is None:
        return None
    replacement: Json = {"deletedRegion": _region(item.span), "insertedContent": {"text": item.replacement}}
    change: Json = {"artifactLocation": {"uri": _uri(item.span.file)}, "replacements": [replacement]}
    return {"description": {"text": item.text}, "artifactChanges": [change]}


def _uri(file: str) -> str:
    """A relative path stays relative; whatever a URI cannot hold is percent-encoded."""
    path = PurePath(file)
    if path.is_absolute():
        return "file://" + quote(path.as_posix(), errors="surrogatepass")
    return quote(path.as_posix(), errors="surrogatepass")
