"""Diagnostics: source spans, labelled messages, typed errors and the ways to show them."""

from tessera.diag.codes import CODES, CodeInfo, Page, page, read_page
from tessera.diag.errors import (
    BoundsError,
    CacheError,
    CallError,
    CheckpointError,
    ConfigError,
    DTypeError,
    ModuleError,
    ParseError,
    RaceError,
    ResourceError,
    ShapeError,
    TesseraError,
    TesseraWarning,
    TraceError,
    VerifyError,
)
from tessera.diag.formats import to_json, to_sarif
from tessera.diag.frames import keep_full_tracebacks_when, trim_traceback, user_frames, warn_user
from tessera.diag.model import Diagnostic, Help, Label, Note
from tessera.diag.render import render
from tessera.diag.source import ExpressionParts, definition_span, expression_parts
from tessera.diag.span import Span, caller_frame, caller_span, source_line

__all__ = [
    "CODES",
    "BoundsError",
    "CacheError",
    "CallError",
    "CheckpointError",
    "CodeInfo",
    "ConfigError",
    "DTypeError",
    "Diagnostic",
    "ExpressionParts",
    "Help",
    "Label",
    "ModuleError",
    "Note",
    "Page",
    "ParseError",
    "RaceError",
    "ResourceError",
    "ShapeError",
    "Span",
    "TesseraError",
    "TesseraWarning",
    "TraceError",
    "VerifyError",
    "caller_frame",
    "caller_span",
    "definition_span",
    "expression_parts",
    "keep_full_tracebacks_when",
    "page",
    "read_page",
    "render",
    "source_line",
    "to_json",
    "to_sarif",
    "trim_traceback",
    "user_frames",
    "warn_user",
]
