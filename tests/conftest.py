"""What every test shares: deterministic seeds, Hypothesis profiles and one private artifact cache.

The environment is prepared when this file is imported, before any test imports numpy, torch or tessera:
thread pools read their variables once, at load.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Two workers on two cores: a BLAS pool per worker would only make them wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests start interpreters of their own; those must see this tree even where nothing is installed.
_inherited = os.environ.get("PYTHONPATH", "")
if str(ROOT) not in _inherited.split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), _inherited]))

import pytest  # noqa: E402  (after the environment is set)
from hypothesis import HealthCheck, settings  # noqa: E402

_LEVEL = "TESSERA_CFLAGS_OPT"
#: Folders whose kernels are compiled at the level that users get: their subject is what the compiler makes of them.
SHIPPED_LEVEL = frozenset({"backends", "corpus", "diag", "examples", "faults", "fuzz", "ops"})

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=_SLOW, print_blob=True)
settings.register_profile(
    "nightly", parent=settings.get_profile("ci"), derandomize=False, max_examples=5000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _session_cache(config: pytest.Config) -> Path:
    """One directory per run, the same in every xdist worker, so that a kernel is compiled once."""
    shared = getattr(config, "workerinput", {}).get("tessera_cache_dir")
    if shared is not None:
        return Path(shared)
    return Path(tempfile.mkdtemp(prefix="tessera-test-cache-"))  # mkdtemp makes it 0700


def pytest_configure(config: pytest.Config) -> None:
    """Point the artifact cache at the run's own directory before tessera can be imported."""
    cache = _session_cache(config)
    config.stash[_CACHE] = cache
    os.environ["TESSERA_CACHE_DIR"] = str(cache)


_CACHE: pytest.StashKey[Path] = pytest.StashKey()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell each xdist worker where the run's cache is."""
    node.workerinput["tessera_cache_dir"] = str(node.config.stash[_CACHE])  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the run's cache, once, from the process that made it."""
    if hasattr(config, "workerinput"):
        return
    import shutil

    shutil.rmtree(config.stash[_CACHE], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Collect the tests without looking for garbage: nearly all of the two million objects that this makes stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_sessionfinish() -> None:
    """Give everything back to the collector: libraries report what is left at the end as lost."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _settled() -> None:
    """Take what earlier modules leave out of the collector's sight, so that `gc.collect()` in a test costs little."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _level(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile as users do where machine code is the subject and in a nightly run, and elsewhere in half the time."""
    room = request.path.relative_to(ROOT / "tests").parts[0]
    usual = room in SHIPPED_LEVEL or "nightly" in request.config.option.markexpr.removeprefix("not nightly")
    with pytest.MonkeyPatch.context() as patch:
        if not usual and _LEVEL not in os.environ:
            patch.setenv(_LEVEL, "1")
        _forget_options()
        yield
    _forget_options()


def _forget_options() -> None:
    """Have the options read again, where they have been read at all."""
    config = sys.modules.get("tessera.config")
    if config is not None:
        config.refresh()


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """Seed every generator that a test could draw from; only those whose library is already loaded."""
    random.seed(0)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(0)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(0)
    yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return ROOT
