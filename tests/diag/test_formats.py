"""Diagnostics for machines."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tessera.diag import CODES, Diagnostic, Help, Label, Note, Span, to_json, to_sarif

FULL = Diagnostic(
    "TSR0201",
    "dimension `D` meets `K` in a contraction",
    (
        Label(Span("models/net a.py", 14, 15, 14, 16, "Net.forward"), "`K`"),
        Label(Span("models/net a.py", 14, 11, 14, 12, "Net.forward"), "`D`", primary=True),
    ),
    (Note("`D` comes from x", Span("models/net a.py", 11)), Note("sizes are rigid")),
    (Help("transpose", Span("models/net a.py", 14, 15, 14, 16), "w.T"), Help("rename")),
)
BARE = Diagnostic("TSR0606", "open to others", severity="warning")


def test_json() -> None:
    record = json.loads(to_json([FULL, BARE]))
    place = {"file": "models/net a.py", "line": 14, "end_line": 14, "function": "Net.forward"}
    assert record["version"] == 1
    assert record["diagnostics"] == [
        {
            "code": "TSR0201",
            "severity": "error",
            "message": "dimension `D` meets `K` in a contraction",
            "labels": [
                {"text": "`K`", "primary": False, "span": place | {"column": 15, "end_column": 16}},
                {"text": "`D`", "primary": True, "span": place | {"column": 11, "end_column": 12}},
            ],
            "notes": [
                {
                    "text": "`D` comes from x",
                    "span": {
                        "file": "models/net a.py",
                        "line": 11,
                        "column": 0,
                        "end_line": 11,
                        "end_column": 1,
                        "function": "",
                    },
                },
                {"text": "sizes are rigid", "span": None},
            ],
            "helps": [
                {
                    "text": "transpose",
                    "span": place | {"column": 15, "end_column": 16, "function": ""},
                    "replacement": "w.T",
                },
                {"text": "rename", "span": None, "replacement": None},
            ],
        },
        {
            "code": "TSR0606",
            "severity": "warning",
            "message": "open to others",
            "labels": [],
            "notes": [],
            "helps": [],
        },
    ]


def _run(*diagnostics: Diagnostic) -> dict[str, Any]:
    log = json.loads(to_sarif(diagnostics, "1.2.3"))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    assert isinstance(run, dict)
    return run


def test_sarif_rules_come_from_the_pages() -> None:
    driver = _run(FULL, BARE, FULL)["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("tessera", "1.2.3")
    assert [rule["id"] for rule in driver["rules"]] == ["TSR0201", "TSR0606"]
    rule = driver["rules"][0]
    assert rule["shortDescription"]["text"] == CODES["TSR0201"].title
    assert "## Repair" in rule["help"]["markdown"]
    assert rule["fullDescription"]["text"]


def test_sarif_results() -> None:
    run = _run(BARE, FULL)
    warning, error = run["results"]
    assert run["columnKind"] == "unicodeCodePoints"
    assert (warning["ruleId"], warning["ruleIndex"], warning["level"]) == ("TSR0606", 1, "warning")
    assert "locations" not in warning
    assert (error["ruleId"], error["ruleIndex"], error["level"]) == ("TSR0201", 0, "error")
    assert error["message"]["text"].splitlines()[0] == FULL.message
    (location,) = error["locations"]
    region = {"startLine": 14, "startColumn": 12, "endLine": 14, "endColumn": 13}
    assert location["physicalLocation"]["region"] == region
    assert location["physicalLocation"]["artifactLocation"] == {"uri": "models/net%20a.py"}
    assert location["logicalLocations"] == [{"fullyQualifiedName": "Net.forward", "kind": "function"}]
    (related,) = error["relatedLocations"]
    assert related["id"] == 0
    assert related["message"] == {"text": "`K`"}
    (fix,) = error["fixes"]
    (change,) = fix["artifactChanges"]
    assert change["replacements"][0]["insertedContent"] == {"text": "w.T"}


def test_sarif_addresses() -> None:
    absolute = Diagnostic("TSR0201", "m", (Label(Span("/a b/ü.py", 1), ""),))
    notebook = Diagnostic("TSR0201", "m", (Label(Span("<ipython-input-1>", 1), ""),))
    places = [
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in _run(absolute, notebook)["results"]
    ]
    assert places == ["file:///a%20b/%C3%BC.py", "%3Cipython-input-1%3E"]


def test_a_code_without_a_page_is_still_a_rule() -> None:
    assert _run(Diagnostic("TSR9999", "m"))["tool"]["driver"]["rules"] == [{"id": "TSR9999"}]


@given(st.text(max_size=50))
def test_any_text_survives_in_ascii(text: str) -> None:
    diagnostic = Diagnostic("TSR0101", text, (Label(Span(text, 1), text),), (Note(text),))
    record, log = to_json([diagnostic]), to_sarif([diagnostic], "0")
    assert record.isascii()
    assert log.isascii()
    assert json.loads(record)["diagnostics"][0]["message"] == text
