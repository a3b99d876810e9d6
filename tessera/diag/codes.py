"""Every diagnostic code: its error class, its title and its page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tessera.diag.errors import (
    BoundsError,
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


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """One code; `title` is a short statement of the fault, without a stop."""

    code: str
    error: type[TesseraError]
    title: str


@dataclass(frozen=True, slots=True)
class Page:
    """A code's page in parts: front part, sections by heading, fenced Python code by heading."""

    info: CodeInfo
    front: Mapping[str, str]
    sections: Mapping[str, str]

    def python(self, heading: str) -> str | None:
        """The Python code of a section, or None when it has none."""
        return next(iter(_FENCE.findall(self.sections.get(heading, ""))), None)


_PAGES = Path(__file__).with_name("pages")
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FRONT = re.compile(r"\A---\n(.*?)^---\n", re.MULTILINE | re.DOTALL)

_TABLE: tuple[tuple[str, type[TesseraError], str], ...] = (
    # annotations and dimensions
    ("TSR0101", ShapeError, "dimension expression or name that cannot be read"),
    ("TSR0102", ShapeError, "dimension expression too long or too deep"),
    ("TSR0103", DTypeError, "dtype name in the place of a dimension, or unknown dtype"),
    ("TSR0104", ShapeError, "malformed tensor annotation"),
    ("TSR0105", ShapeError, "argument does not fit its annotation"),
    ("TSR0106", ShapeError, "dimension expression without an exact, non-negative value"),
    ("TSR0107", ShapeError, "one name bound to two sizes"),
    ("TSR0108", DTypeError, "argument with a dtype its annotation does not allow"),
    ("TSR0109", TraceError, "argument of a wrong Python type"),
    ("TSR0110", ShapeError, "annotation whose names cannot be solved"),
    ("TSR0111", CallError, "call that does not fit the signature"),
    ("TSR0112", CallError, "scan of what cannot be scanned, or with no step"),
    ("TSR0113", ModuleError, "class or attribute that a module cannot have"),
    ("TSR0114", CallError, "gradient by an argument that there is not"),
    # shapes in bodies
    ("TSR0201", ShapeError, "contraction over different dimensions"),
    ("TSR0202", ShapeError, "broadcast of different dimensions"),
    ("TSR0203", ShapeError, "dimension index out of range"),
    ("TSR0204", ShapeError, "rank an operation does not take"),
    ("TSR0205", ShapeError, "reshape to another number of elements"),
    ("TSR0206", ShapeError, "joined tensors whose other dimensions differ"),
    ("TSR0207", ShapeError, "squeeze of a dimension that is not 1"),
    ("TSR0208", ShapeError, "split that does not divide the dimension"),
    ("TSR0209", ShapeError, "einsum equation that does not fit its operands"),
    ("TSR0210", ShapeError, "result does not fit the return annotation"),
    ("TSR0211", ShapeError, "call does not fit the called function's parameters"),
    ("TSR0212", ShapeError, "index or slice outside its dimension"),
    ("TSR0213", ShapeError, "expand or repeat to sizes that do not fit"),
    ("TSR0214", ShapeError, "order of dimensions that is no permutation"),
    ("TSR0215", ShapeError, "index tensor whose shape does not fit"),
    ("TSR0216", ShapeError, "shape unpacked into another number of names"),
    ("TSR0217", ShapeError, "broadcast after a reduction that dropped its dimension"),
    ("TSR0218", ShapeError, "tensors scanned together with different numbers of steps"),
    ("TSR0219", ShapeError, "carry of a scan whose sizes or structure a step changes"),
    ("TSR0220", ShapeError, "gradient of a function that does not give one number"),
    ("TSR0221", ShapeError, "block that does not have the shape of its view"),
    ("TSR0222", ShapeError, "name whose type changes in a loop or choice of a kernel"),
    # dtypes
    ("TSR0301", DTypeError, "operand dtypes an operation does not take"),
    ("TSR0302", DTypeError, "arithmetic between two fp8 tensors"),
    ("TSR0303", DTypeError, "mask that is not bool"),
    ("TSR0304", DTypeError, "index that is not an integer tensor"),
    ("TSR0305", DTypeError, "result dtype differs from the return annotation"),
    ("TSR0306", DTypeError, "random numbers of a dtype that cannot be sampled"),
    ("TSR0307", DTypeError, "carry of a scan whose dtype a step changes"),
    ("TSR0308", DTypeError, "gradient of or by what is no float"),
    # tracing
    ("TSR0401", TraceError, "Python control flow on a tensor value"),
    ("TSR0402", TraceError, "tensor value read while tracing"),
    ("TSR0403", TraceError, "update of an argument"),
    ("TSR0404", TraceError, "operation or combination of arguments that is not known"),
    ("TSR0405", TraceError, "loop too long to unroll"),
    ("TSR0406", TraceError, "code that cannot be traced"),
    ("TSR0407", TraceError, "return value that is not made of tensors"),
    ("TSR0408", TraceError, "operation that its kind does not offer"),
    ("TSR0409", TraceError, "something else than a plain function where one is needed"),
    ("TSR0410", TraceError, "recursion without end"),
    ("TSR0411", TraceError, "value of a scan's step used outside of the step"),
    ("TSR0412", TraceError, "step of a scan that does more than return values"),
    ("TSR0413", TraceError, "gradient through an operation without a derivative"),
    ("TSR0414", TraceError, "second derivative at arguments that are gone"),
    ("TSR0415", TraceError, "region of recomputation outside of a traced function"),
    ("TSR0416", TraceError, "module with hooks inside a compiled function"),
    ("TSR0417", TraceError, "argument to be updated that shares memory"),
    ("TSR0418", TraceError, "hooks on saved tensors that give another tensor"),
    ("TSR0419", TraceError, "Python that kernels do not have"),
    # IR text and IR
    ("TSR0501", ParseError, "IR text with a syntax error"),
    ("TSR0502", ParseError, "IR text with an unknown operation, attribute or type"),
    ("TSR0503", ParseError, "IR value undefined or defined twice"),
    ("TSR0504", VerifyError, "malformed IR"),
    ("TSR0505", ParseError, "IR text beyond the limits"),
    # resources and running
    ("TSR0601", ResourceError, "no C compiler"),
    ("TSR0602", ResourceError, "C compiler failed"),
    ("TSR0603", ResourceError, "tensors on different devices"),
    ("TSR0604", ResourceError, "kind of tensor that is not supported"),
    ("TSR0605", BoundsError, "index outside its dimension while running"),
    ("TSR0606", TesseraWarning, "cache folder that is not safe to use"),
    ("TSR0607", ResourceError, "backend or device not available"),
    ("TSR0608", ResourceError, "size too large"),
    ("TSR0609", ConfigError, "malformed option"),
    ("TSR0610", RaceError, "kernel that depends on the order of its iterations"),
    ("TSR0611", CheckpointError, "checkpoint that does not fit the module"),
    ("TSR0612", BoundsError, "padding that reaches a result"),
    ("TSR0613", RaceError, "memory used before its contents are there"),
)

#: Every code, in order.
CODES: Mapping[str, CodeInfo] = MappingProxyType({row[0]: CodeInfo(*row) for row in _TABLE})


def page(code: str) -> str:
    """The Markdown page of a code; raises KeyError for an unknown one.

    >>> page("TSR0201").splitlines()[2]
    'class: ShapeError'
    """
    info = CODES[code]
    return (_PAGES / f"{info.code}.md").read_text(encoding="utf-8")


def read_page(code: str) -> Page:
    """The page of a code in parts; raises KeyError for an unknown one."""
    text = page(code)
    found = _FRONT.match(text)
    front_text, body = (found[1], text[found.end() :]) if found else ("", text)
    front = dict(line.split(": ", 1) for line in front_text.splitlines())
    sections: dict[str, str] = {}
    heading = ""
    fenced = False
    for line in body.splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if line.startswith("## ") and not fenced:
            heading = line[3:].strip()
        else:
            sections[heading] = sections.get(heading, "") + line
    return Page(CODES[code], front, sections)
