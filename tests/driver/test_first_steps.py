"""What newcomers do wrong or differently: each works, or gives one short typed error that shows their own line."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import linecache
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch

import tessera
from tessera import Tensor, config
from tessera.diag import CallError, ConfigError, TesseraError, TesseraWarning, TraceError

X = torch.ones(2, 3)
PACKAGE = str(Path(tessera.__file__).parent)


@tessera.function
def scaled(x: Tensor["B", "D"], factor: float = 2.0, *, shift: float = 0.0) -> Tensor["B", "D"]:
    """Scale and shift."""
    return x * factor + shift


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), 2.0))

    @tessera.function
    def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return x * self.weight


def refused(act: Callable[[], object], kind: type[TesseraError] = TesseraError) -> TesseraError:
    with pytest.raises(kind) as caught:
        act()
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not [file for file in files if file.startswith(PACKAGE)], files
    text = "".join(traceback.format_exception(caught.value))
    assert "another exception" not in text
    assert len(text.splitlines()) < 40
    return caught.value


# ---- tracebacks --------------------------------------------------------------------------------------------


def wrong_definition() -> None:
    @tessera.function
    def product(x: Tensor["B", "D"], w: Tensor["F", "D"]) -> Tensor["B", "F"]:
        return x @ w


@pytest.mark.parametrize(
    "act",
    [
        wrong_definition,
        lambda: scaled(torch.ones(2)),
        lambda: Layer().forward(torch.ones(2)),
        lambda: Layer().forward.ir("fusd"),
        lambda: scaled.ir("fusd"),
        lambda: scaled.lower(X, backend="cc"),
        lambda: scaled.resolve(torch.ones(2)),
        lambda: tessera.compare(scaled, torch.ones(2)),
        lambda: tessera.backend("eagr"),
        lambda: tessera.parse("fn"),
        lambda: tessera.mean(X, dim=7),
        lambda: tessera.mean([1.0]),
        lambda: Tensor["B S"],
    ],
)
def test_tracebacks_show_the_users_frames(act: Callable[[], object]) -> None:
    refused(act)


def test_tracebacks_stay_whole_on_request() -> None:
    with config.override(full_traceback=True), pytest.raises(TesseraError) as caught:
        wrong_definition()
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert any(frame.filename.startswith(PACKAGE) for frame in frames)


# ---- the warning of a fallback -----------------------------------------------------------------------------


def test_the_warning_keeps_notes_and_is_no_error() -> None:
    @tessera.function
    def chosen(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return x if x.sum() > 0 else -x

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen(X)
    (found,) = (w for w in caught if issubclass(w.category, TesseraWarning))
    assert found.filename == __file__
    text = str(found.message)
    assert text.startswith("warning[TSR0401]")
    assert "error" not in text
    assert "`test_the_warning" not in text
    assert "note: `chosen` runs eagerly from here on" in text


def test_refutations_as_warnings_are_warnings() -> None:
    with config.override(shapes="warn"), pytest.warns(TesseraWarning, match=r"^warning\[TSR0201\]") as caught:
        wrong_definition()
    assert caught[0].filename == __file__


def test_errors_of_eager_code_do_not_follow_from_the_refusal() -> None:
    @tessera.function
    def fails(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        raise KeyError("mine")

    with pytest.warns(TesseraWarning), pytest.raises(KeyError) as caught:
        fails(X)
    assert caught.value.__context__ is None


# ---- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: scaled(), "missing a required argument: 'x'"),
        (lambda: scaled(X, 1.0, 2.0), "too many positional arguments"),
        (lambda: scaled(X, facto=2.0), "`factor` is close to `facto`"),
        (lambda: scaled(X, x=X), "multiple values for argument 'x'"),
        (lambda: Layer().forward(), "call of Layer.forward"),
    ],
)
def test_calls_that_do_not_fit(act: Callable[[], object], text: str) -> None:
    error = refused(act, CallError)
    assert isinstance(error, TypeError)
    assert text in str(error)
    assert "its signature is" in str(error)
    assert error.spans[0].file == __file__


def test_the_signature_in_an_error() -> None:
    error = refused(lambda: scaled())
    written = 'its signature is scaled(x: Tensor["B", "D"], factor: float = 2.0, *, shift: float = 0.0)'
    assert error.diagnostics[0].notes[0].text == written


def test_inlined_calls_that_do_not_fit() -> None:
    def define() -> None:
        @tessera.function
        def outer(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
            return scaled(x, facto=3.0)

    error = refused(define)
    assert error.code == "TSR0211"
    assert "its signature is scaled(" in str(error)
    assert "`factor` is close to `facto`" in str(error)
    assert error.spans[0].text() == "scaled(x, facto=3.0)"


@pytest.mark.parametrize(
    ("value", "word", "help_"),
    [
        (np.ones((2, 3), np.float32), "numpy.ndarray", "torch.from_numpy"),
        ([[1.0]], "list", "torch.tensor"),
        ("x", "str", ""),
    ],
)
def test_what_is_no_tensor(value: Any, word: str, help_: str) -> None:
    error = refused(lambda: scaled(value))
    assert error.code == "TSR0109"
    assert error.spans[0].text() == "scaled(value)"
    assert f"called with a {word}" in str(error)
    assert help_ in str(error)


def test_annotations_of_variadic_parameters_hold_for_each() -> None:
    @tessera.function
    def total(*xs: Tensor["B", "D"], **more: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return xs[0] + xs[1] + more["y"]

    assert torch.equal(total(X, X, y=X), X * 3)
    assert total.cache_info().eager == 0
    assert refused(lambda: total(X, torch.ones(2, 4), y=X)).code == "TSR0107"


def test_an_unknown_keyword_of_an_operation() -> None:
    def define() -> None:
        @tessera.function(strict=True)
        def mean(x: Tensor["B", "D"]) -> Tensor["B"]:
            return tessera.mean(x, dmi=-1)

    error = refused(define)
    assert error.message == "mean() got an unexpected keyword argument 'dmi'"
    assert "its signature is mean(x" in str(error)


def test_a_name_of_the_result_that_is_almost_one_of_a_parameter() -> None:
    @tessera.function
    def same(x: Tensor["batch", "D"]) -> Tensor["bacth", "D"]:
        return x

    assert "only the result names `bacth`, `batch` is close" in str(same.check())


# ---- what is decorated -------------------------------------------------------------------------------------


class Plain:
    def __call__(self, x: Tensor["B"]) -> Any:
        return x


def generator(x: Tensor["B"]) -> Iterator[Any]:
    yield x


async def waits(x: Tensor["B"]) -> Any:
    await asyncio.sleep(0)
    return x


async def waits_and_yields(x: Tensor["B"]) -> Any:
    yield x


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Plain, "decorate its methods"),
        (Plain(), "`__call__`"),
        (torch.nn.Linear(2, 2), "`forward`"),
        (generator, "instead of `yield`"),
        (waits, "declare it with `def`"),
        (waits_and_yields, "instead of `yield`"),
        (property(lambda self: X), "put `@property` above"),
        (functools.partial(scaled.fn, factor=2.0), "take the partial of that"),
        (len, "call it in a `def`"),
        (torch.relu, "`relu` is a built-in function"),
        (3, "options have names"),
        ("strict", "options have names"),
    ],
)
def test_what_is_no_plain_function(given: Any, text: str) -> None:
    for decorate in (tessera.function, tessera.function(strict=True)):
        error = refused(lambda decorate=decorate: decorate(given), TraceError)  # type: ignore[misc]
        assert error.code == "TSR0409"
        assert text in str(error)
        assert error.spans


def test_the_place_of_a_generator_is_its_definition() -> None:
    assert refused(lambda: tessera.function(generator)).spans[0].text() == "generator"


def test_a_misspelt_option_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="stric") as caught:
        tessera.function(stric=True)  # type: ignore[call-overload]
    assert len(traceback.extract_tb(caught.value.__traceback__)) == 1


def test_compare_of_what_is_not_decorated() -> None:
    assert refused(lambda: tessera.compare(lambda x: x, X)).code == "TSR0409"  # type: ignore[arg-type]


def test_static_and_class_methods_in_either_order() -> None:
    class Holder:
        @tessera.function
        @staticmethod
        def one(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
            return x + 1

        @staticmethod
        @tessera.function
        def two(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
            return x + 2

        @tessera.function
        @classmethod
        def three(cls, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
            return x + 3

        @property
        @tessera.function
        def four(self) -> Tensor["B", "D"]:
            return X + 4

    for holder in (Holder, Holder()):
        assert [float(f(X).mean()) for f in (holder.one, holder.two, holder.three)] == [2.0, 3.0, 4.0]
    assert float(Holder().four.mean()) == 5.0


def test_other_decorators_above_and_below() -> None:
    @torch.no_grad()
    @tessera.function
    @torch.no_grad()
    def f(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return x * 2

    assert not f(torch.ones(2, 3, requires_grad=True)).requires_grad
    twice = tessera.function(tessera.function(scaled))
    assert torch.equal(twice(X), X * 2)
    named = tessera.function(lambda x: x * 4)
    assert torch.equal(named(X), X * 4)


# ---- recursion ---------------------------------------------------------------------------------------------


@tessera.function
def endless(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    return endless(x) + 1


class Ring:
    @tessera.function
    def even(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return Ring.odd(x)

    @tessera.function
    def odd(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return Ring.even(x)


def helper(x: Any) -> Any:
    return helper(x)


@tessera.function
def by_helper(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    return helper(x)


@tessera.function
def halved(x: Tensor["B", "D"], times: int) -> Tensor["B", "D"]:
    return x if times == 0 else halved(x * 0.5, times - 1)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(
    ("f", "name", "call"),
    [(endless, "endless", "endless(x)"), (Ring.even, "Ring.", "Ring."), (by_helper, "helper", "helper(x)")],
)
def test_recursion_without_end_is_one_short_error(f: Any, name: str, call: str, backend: str) -> None:
    with tessera.backend(backend):
        error = refused(lambda: f(X), TraceError)
    assert error.code == "TSR0410"
    assert f"`{name}" in error.message and "calls itself without end" in error.message
    assert (error.spans[0].text() or "").startswith(call)
    assert error.__cause__ is None and error.__context__ is None


def test_recursion_in_a_circle_names_its_members() -> None:
    assert "the calls go round: Ring." in str(refused(lambda: Ring.even(X)))


def test_recursion_that_ends_is_unrolled() -> None:
    assert torch.equal(halved(X, 40), X * 0.5**40)


# ---- Python's own ways with functions ----------------------------------------------------------------------


def test_pickles_and_copies() -> None:
    assert pickle.loads(pickle.dumps(scaled)) is scaled
    assert copy.deepcopy(scaled) is scaled
    layer = Layer()
    other = copy.deepcopy(layer)
    other.weight.data.fill_(5.0)
    with torch.no_grad():
        assert float(layer(X).mean()) == 2.0
        assert float(other(X).mean()) == 5.0
        assert float(pickle.loads(pickle.dumps(other)).forward(X).mean()) == 5.0
        assert float(pickle.loads(pickle.dumps(other.forward))(X).mean()) == 5.0


def test_a_local_function_cannot_be_pickled() -> None:
    @tessera.function
    def local(x: Tensor["B"]) -> Tensor["B"]:
        return x

    with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
        pickle.dumps(local)


def test_signatures_and_documentation() -> None:
    assert list(inspect.signature(scaled).parameters) == ["x", "factor", "shift"]
    assert list(inspect.signature(Layer().forward).parameters) == ["x"]
    assert (scaled.__name__, scaled.__doc__, scaled.__wrapped__) == ("scaled", "Scale and shift.", scaled.fn)
    assert "def scaled(" in inspect.getsource(scaled.fn)


@pytest.mark.parametrize("warm", [0, 3])
def test_torchs_own_compilers_and_transforms(warm: int) -> None:
    f = tessera.function(scaled.fn)
    for _ in range(warm):
        f(X)
    five = torch.full((2, 3), 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own older ways
        traced = torch.jit.trace(f, X, check_trace=False)
    assert torch.equal(traced(five), five * 2)
    layer = Layer()
    for _ in range(warm):
        layer(X)
    assert torch.equal(torch.export.export(layer, (X,)).module()(five), five * 2)
    assert torch.func.vmap(f)(torch.ones(4, 2, 3)).shape == (4, 2, 3)
    assert torch.equal(torch.func.grad(lambda x: f(x).sum())(X), X * 2)
    assert torch.equal(functools.partial(f, shift=1.0)(X), X * 2 + 1)


def test_names_of_stages_and_targets() -> None:
    error = refused(lambda: scaled.ir("fusd"), ConfigError)
    assert isinstance(error, ValueError)
    assert "`fused` is close" in str(error)
    for target in ("cuda:banana", "cuda:", "hip:90", "cuda", "tpu:4"):
        assert refused(lambda target=target: scaled.lower(target=target)).code == "TSR0607"  # type: ignore[misc]
    assert scaled.lower(target="cuda:sm_90").target.name == "cuda:90"


# ---- notebooks, and code without source --------------------------------------------------------------------

CELL = "<ipython-input-{}-test>"

def run_cell(number: int, text: str, names: dict[str, Any], source: bool = True) -> None:
    """Run a cell as IPython does: its text is in linecache under a name of its own."""
    file = CELL.format(number)
    linecache.cache.pop(file, None)
    if source:
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    FunctionType(compile(text, file, "exec"), names)()


def names_of_a_notebook() -> dict[str, Any]:
    return {"tessera": tessera, "Tensor": Tensor, "torch": torch, "__name__": "notebook"}


def define(body: str, extra: str = "") -> str:
    return f"{extra}@tessera.function\ndef f(x: Tensor['B', 'D']) -> Tensor['B', 'D']:\n    return {body}\n"


@pytest.mark.parametrize("numbers", [(1, 2), (1, 1)])
def test_a_cell_that_is_run_again_with_another_body(numbers: tuple[int, int]) -> None:
    names = names_of_a_notebook()
    first, second = numbers
    run_cell(first, define("x * 2"), names)
    run_cell(3, "@tessera.function\ndef g(x: Tensor['B', 'D']) -> Tensor['B', 'D']:\n    return f(x) + 1\n", names)
    assert float(names["f"](X).mean()) == 2.0
    run_cell(second, define("x * 3", "# another comment above\n"), names)
    assert float(names["f"](X).mean()) == 3.0
    assert "mul(x, 3)" in names["f"].ir()
    assert f"{CELL.format(second)}:4" in names["f"].ir()
    with pytest.raises(TesseraError) as caught:
        run_cell(second, define("x.transpose(0, 1)", "# one\n# two\n"), names)
    text = str(caught.value)
    assert f"{CELL.format(second)}:" in text
    assert "x.transpose(0, 1)" in text
    assert "x * 3" not in text


def test_code_without_source() -> None:
    names = names_of_a_notebook()
    run_cell(7, define("x * 2"), names, source=False)
    assert float(names["f"](X).mean()) == 2.0
    for body in ("x.transpose(0, 1)", "x @ x"):
        with pytest.raises(TesseraError) as caught:
            run_cell(8, define(body), names, source=False)
        assert "(source not available)" in str(caught.value)
    assert refused(lambda: names["f"]()).code == "TSR0111"
    assert "its signature is f(x: Tensor[" in str(refused(lambda: names["f"]()))
