"""torch's own sample calls, run through `tessera.function` and judged against float64 and eager."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.testing._internal import common_methods_invocations
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

import tessera
from tessera.backends.eager.table import TorchTable, resolve
from tessera.diag import TesseraError, TraceError
from tessera.ir.record import OpRecord
from tests.ops.compare import difference

TABLE = TorchTable()
Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Entry:
    """One row of torch's table that means one of our records."""

    info: OpInfo
    record: OpRecord

    @property
    def name(self) -> str:
        return str(self.info.formatted_name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The operation as a user calls it: methods of tensors by name, so that a traced tensor answers too."""
        function = self.info.op
        if isinstance(function, types.MethodDescriptorType | types.WrapperDescriptorType):
            return getattr(args[0], function.__name__)(*args[1:], **kwargs)
        return function(*args, **kwargs)


@dataclass(frozen=True)
class Outcome:
    """What came of one sample.

    ``kind`` is ``ok``; ``value`` or ``type`` where results differ in their numbers, or in count, shape or dtype;
    ``refused``, ``untraced`` (``code`` says which error); ``eager`` where torch ran instead of compiled code;
    ``crash``; or ``silent`` where a call that torch refuses raised nothing. ``error`` is the relative L2 error of a
    ``value``, infinite where NaN or infinity stand in other places; ``kernels`` counts the C kernels that ran.
    """

    entry: str
    dtype: str
    number: int
    kind: str
    text: str = ""
    code: str = ""
    error: float = math.inf
    kernels: int = 0

    def __str__(self) -> str:
        first = self.text.partition("\n")[0]
        return f"{self.entry} {self.dtype} #{self.number} {self.kind} {self.code}: {first}"


@cache
def entries() -> tuple[Entry, ...]:
    """Every entry that matches a record: by its function, by an alias, by its method, or by its name."""
    found = []
    for info in op_db:
        record = next(filter(None, (TABLE.meaning(f)[0] for f in _spellings(info))), None)
        if record is not None:
            found.append(Entry(info, record))
    return tuple(found)


def _spellings(info: OpInfo) -> Iterator[object]:
    yield info.op
    yield from (alias.op for alias in info.aliases)
    if info.method_variant is not None:
        yield info.method_variant
    for where in ("torch", "torch.Tensor"):
        named = resolve(f"{where}.{info.name}")
        if named is not None:
            yield named


def samples(entry: Entry, dtype: torch.dtype) -> list[SampleInput]:
    """The samples of an entry, the same ones at every call."""
    torch.manual_seed(7)
    return list(entry.info.sample_inputs("cpu", dtype, requires_grad=False))


def wrapped(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Tensors]:
    """``function`` on these arguments as a compiled function of the tensors among them, and those tensors."""
    tensors: Tensors = []

    def pack(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            tensors.append(x)
            return _Hole(len(tensors) - 1)
        if type(x) in (list, tuple):
            return type(x)(pack(y) for y in x)
        if type(x) is dict:
            return {k: pack(v) for k, v in x.items()}
        return x

    packed, named = pack(list(args)), pack(dict(kwargs))

    def call(*given):  # type: ignore[no-untyped-def]
        return function(*_fill(packed, given), **_fill(named, given))

    return tessera.function(call, strict=True), tensors


@dataclass(frozen=True)
class _Hole:
    number: int


def _fill(x: Any, given: Sequence[Any]) -> Any:
    if isinstance(x, _Hole):
        return given[x.number]
    if type(x) in (list, tuple):
        return type(x)(_fill(y, given) for y in x)
    if type(x) is dict:
        return {k: _fill(v, given) for k, v in x.items()}
    return x


def flat(x: Any) -> list[Any]:
    """The leaves of nested sequences and mappings."""
    if isinstance(x, dict):
        x = list(x.values())
    return [y for part in x for y in flat(part)] if isinstance(x, tuple | list) else [x]


def _up(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return torch.float64 if x.is_floating_point else x
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def _copies(x: Any) -> Any:
    return x.clone() if isinstance(x, torch.Tensor) else x


@contextmanager
def _unseeded() -> Iterator[None]:
    """Entries that draw numbers set the same seed before each call. Without that their results show to be random."""
    seeded = common_methods_invocations.wrapper_set_seed
    common_methods_invocations.wrapper_set_seed = lambda op, *args, **kwargs: op(*args, **kwargs)
    try:
        yield
    finally:
        common_methods_invocations.wrapper_set_seed = seeded


def run_sample(entry: Entry, dtype: torch.dtype, number: int, sample: SampleInput) -> Outcome | None:
    """One sample through the compiler; None where eager itself refuses it."""
    with torch.no_grad(), _unseeded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _run(entry, sample)
    if found is None:
        return None
    return Outcome(entry.name, str(dtype).removeprefix("torch."), number, **found)


def _run(entry: Entry, sample: SampleInput) -> dict[str, Any] | None:
    try:
        eager = _eager(entry, sample, 1)
        varies = not all(map(_same, eager, _eager(entry, sample, 2)))
    except Exception:
        return None
    try:
        exact = _eager(entry, sample.transform(_up), 1)
    except Exception:
        exact = [_up(x) for x in eager]
    function, tensors = wrapped(entry, (sample.input, *sample.args), sample.kwargs)
    try:
        torch.manual_seed(1)
        with tessera.backend("c"):
            got = flat(function(*[t.clone() if t.is_contiguous() else t for t in tensors]))
    except TesseraError as error:
        kind = "untraced" if isinstance(error, TraceError) else "refused"
        return {"kind": kind, "text": str(error), "code": error.code}
    except Exception as error:
        return {"kind": "crash", "text": f"{type(error).__name__}: {error}"}
    if function.cache_info().eager and all(t.numel() for t in tensors):  # empty tensors have no address
        return {"kind": "eager"}
    return _judged(got, eager, exact, varies) | {"kernels": kernels(function)}


def kernels(function: Any) -> int:
    """How many C kernels the variants of a function have."""
    return sum(len(variant.program.kernels) for variant in function.compiled.all())


def _judged(got: list[Any], eager: list[Any], exact: list[Any], varies: bool) -> dict[str, Any]:
    if len(got) != len(eager):
        return {"kind": "type", "text": f"{len(got)} results, not {len(eager)}"}
    for n, (g, e, x) in enumerate(zip(got, eager, exact, strict=True)):
        where = "" if len(got) == 1 else f"result {n}: "
        text = _described(g, e)
        if text is not None:
            return {"kind": "type", "text": where + text}
        text = None if varies else _compare(g, e, x)
        if text is not None:
            return {"kind": "value", "text": where + text, "error": _distance(g, x)}
    return {"kind": "ok"}


def _eager(entry: Entry, sample: SampleInput, seed: int) -> list[Any]:
    torch.manual_seed(seed)
    s = sample.transform(_copies)
    return flat(entry(s.input, *s.args, **s.kwargs))


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor) or not a.numel():
        return True
    return bool(((a == b) | (a != a)).all())


def _described(got: Any, eager: Any) -> str | None:
    """Shape and dtype are torch's, also where the numbers are random."""
    if not isinstance(eager, torch.Tensor):
        return None if type(got) is type(eager) else f"{type(got).__name__}, not {type(eager).__name__}"
    if not isinstance(got, torch.Tensor):
        return f"{type(got).__name__}, not a tensor"
    same = got.shape == eager.shape and got.dtype == eager.dtype
    return None if same else f"{got.dtype} {tuple(got.shape)}, not {eager.dtype} {tuple(eager.shape)}"


def _compare(got: Any, eager: Any, exact: Any) -> str | None:
    if isinstance(eager, torch.Tensor):
        return difference(got, eager, exact)
    same = got == eager or (isinstance(eager, float) and eager != eager and got != got)
    return None if same else f"{got!r}, not {eager!r}"


def _distance(got: Any, exact: Any) -> float:
    """Relative L2 distance over what is finite; infinite where other places are finite, or for other than floats."""
    if not isinstance(exact, torch.Tensor) or not got.is_floating_point() or got.shape != exact.shape:
        return math.inf
    rounded, here = exact.to(got.dtype), got.isfinite()
    if not torch.equal(here, rounded.isfinite()):
        return math.inf
    x, y = (torch.where(here, v.double(), 0.0) for v in (got, exact))
    return float((x - y).norm() / y.norm().clamp_min(1e-300))


def run_errors(entry: Entry) -> list[Outcome]:
    """The calls that torch refuses: the compiled function must refuse them too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(7)
        cases = list(entry.info.error_inputs("cpu")) if entry.info.error_inputs_func is not None else []
        return [_refusal(entry, number, case) for number, case in enumerate(cases) if _refused(entry, case)]


def _refused(entry: Entry, case: Any) -> bool:
    """Does torch refuse the call as it is made here? Some it refuses only with gradients or in a method."""
    s = case.sample_input
    try:
        entry(*(_copies(x) for x in (s.input, *s.args)), **s.kwargs)
    except Exception:
        return True
    return False


def _refusal(entry: Entry, number: int, case: Any) -> Outcome:
    s = case.sample_input

    def outcome(kind: str, text: str, code: str = "") -> Outcome:
        return Outcome(entry.name, "error", number, kind, text, code)

    try:
        function, tensors = wrapped(entry, (s.input, *s.args), s.kwargs)
        with torch.no_grad(), tessera.backend("c"):
            function(*tensors)
    except TesseraError as error:
        return outcome("ok", type(error).__name__, error.code)
    except Exception as error:
        kind = "ok" if isinstance(error, case.error_type) else "crash"
        return outcome(kind, f"{type(error).__name__}: {error}")
    return outcome("silent", str(case.error_regex)[:120])
