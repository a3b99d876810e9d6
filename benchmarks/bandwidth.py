"""How fast memory can be copied: torch, the C library, and stores past the caches."""

from __future__ import annotations

import ctypes
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import torch

Call = Callable[[], object]

# Each thread copies a part of its own. The parts begin at multiples of 64 bytes.
_SOURCE = """
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

struct part { char *to; const char *from; size_t size; int stream; };

static void *copy_part(void *given) {
    struct part *p = given;
    size_t i = 0;
#if defined(__x86_64__)
    if (p->stream) {
        for (; i + 64 <= p->size; i += 64) {
            __m128i a = _mm_loadu_si128((const __m128i *)(p->from + i));
            __m128i b = _mm_loadu_si128((const __m128i *)(p->from + i + 16));
            __m128i c = _mm_loadu_si128((const __m128i *)(p->from + i + 32));
            __m128i d = _mm_loadu_si128((const __m128i *)(p->from + i + 48));
            _mm_stream_si128((__m128i *)(p->to + i), a);
            _mm_stream_si128((__m128i *)(p->to + i + 16), b);
            _mm_stream_si128((__m128i *)(p->to + i + 32), c);
            _mm_stream_si128((__m128i *)(p->to + i + 48), d);
        }
        _mm_sfence();
    }
#endif
    memcpy(p->to + i, p->from + i, p->size - i);
    return NULL;
}

int can_stream(void) {
#if defined(__x86_64__)
    return 1;
#else
    return 0;
#endif
}

void copy(char *to, const char *from, size_t size, int threads, int stream) {
    struct part parts[64];
    pthread_t ids[64];
    int started[64] = {0};
    if (threads > 64) threads = 64;
    size_t each = size / threads / 64 * 64;
    for (int t = 0; t < threads; t++) {
        size_t begin = each * t;
        struct part p = {to + begin, from + begin, t == threads - 1 ? size - begin : each, stream};
        parts[t] = p;
        if (t) started[t] = !pthread_create(&ids[t], NULL, copy_part, &parts[t]);
    }
    copy_part(&parts[0]);
    for (int t = 1; t < threads; t++) {
        if (started[t]) pthread_join(ids[t], NULL);
        else copy_part(&parts[t]);
    }
}
"""


def best(speeds: Mapping[str, float]) -> str:
    """The fastest of the measured ways to copy.

    >>> best({"torch copy_": 1e10, "memcpy": 2e10})
    'memcpy'
    """
    return max(speeds, key=lambda method: speeds[method])


class Copier:
    """Ways to copy memory with a given number of threads; the C library lives as long as the `with` block."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._folder = tempfile.TemporaryDirectory(prefix="tessera-bench-")
        self._library: ctypes.CDLL | None = None

    def __enter__(self) -> Copier:
        self._library = _build(Path(self._folder.name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @property
    def methods(self) -> tuple[str, ...]:
        """What this machine can do; without a C compiler only torch's copy."""
        if self._library is None:
            return ("torch copy_",)
        streams = ("non-temporal copy",) if self._library.can_stream() else ()
        return ("torch copy_", "memcpy", *streams)

    def call(self, method: str, moved: int) -> Call:
        """A call that moves so many bytes: half of them read, half written into memory that is there."""
        words = max(1, moved // 8)
        source, target = torch.ones(words), torch.zeros(words)
        if method == "torch copy_" or self._library is None:
            return lambda: target.copy_(source)
        copy, threads, stream = self._library.copy, self.threads, int(method == "non-temporal copy")
        to, origin, size = target.data_ptr(), source.data_ptr(), 4 * words

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            copy(to, origin, size, threads, stream)
            return source, target  # keeps both alive as long as the call

        return run

    def measure(self, moved: int, rounds: int) -> dict[str, float]:
        """Bytes per second, read and written together, of every method: medians of interleaved rounds."""
        calls = {method: self.call(method, moved) for method in self.methods}
        times: dict[str, list[float]] = {method: [] for method in calls}
        for _ in range(rounds + 1):
            for method, call in calls.items():
                start = time.perf_counter()
                call()
                times[method].append(time.perf_counter() - start)
        size = max(1, moved // 8) * 8
        return {method: size / statistics.median(series[1:]) for method, series in times.items()}


def _build(folder: Path) -> ctypes.CDLL | None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    source, library = folder / "copy.c", folder / "copy.so"
    source.write_text(_SOURCE, encoding="utf-8")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-lpthread"]
    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
        return None
    loaded = ctypes.CDLL(str(library))
    loaded.copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int]
    loaded.copy.restype = None
    return loaded
