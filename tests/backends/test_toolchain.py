"""The compiler: which one is taken, what its code means, and what happens when it misbehaves."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tessera import config
from tessera.backends.c import load, toolchain
from tessera.backends.c.host import cpu_identity, host_target
from tessera.backends.c.load import load_shared
from tessera.backends.c.toolchain import CompileOptions, compile_shared, find_compiler, toolchain_key
from tessera.diag import ResourceError
from tests.backends.c_probe import probe

ANSWER = '__attribute__((visibility("default"))) int answer(void) { return 42; }'


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files go to while the test runs."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def script(path: Path, body: str) -> str:
    """A stand-in for a compiler; it answers `--version` like gcc."""
    answer = 'if [ "$1" = --version ]; then echo "gcc stand-in 1"; exit 0; fi'
    path.write_text(f"#!/bin/sh\n{answer}\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_compiles_loads_and_calls() -> None:
    library = load_shared(compile_shared(ANSWER), "answer", parallel=False)
    assert library.entry("answer")() == 42
    assert library.address("answer") != 0
    with pytest.raises(ResourceError) as caught:
        library.entry("question")
    assert caught.value.code == "TSR0607"


def test_libraries_of_equal_names_are_different_libraries() -> None:
    """The dynamic linker takes an equal path for the same library; every load has a path of its own."""
    sources = [ANSWER.replace("42", str(n)) for n in range(6)]
    loaded = [load_shared(compile_shared(source), "same", parallel=False) for source in sources]
    assert [library.entry("answer")() for library in loaded] == list(range(6))


def test_loads_without_memory_files(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_memory_file", lambda name: None)
    library = load_shared(compile_shared(ANSWER), "disk", parallel=False)
    assert library.entry("answer")() == 42
    assert list(temporary.iterdir()) == []


def test_a_library_that_is_none_is_refused() -> None:
    with pytest.raises(ResourceError) as caught:
        load_shared(b"\x7fELF" + bytes(500), "zeros", parallel=False)
    assert caught.value.code == "TSR0607"


def test_loaded_bytes_cannot_be_changed() -> None:
    descriptor = load._memory_file("sealed")
    if descriptor is None:
        pytest.skip("no memory files here")
    try:
        load._write_all(descriptor, b"code")
        load._seal(descriptor)
        with pytest.raises(PermissionError):
            os.write(descriptor, b"more")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def test_errors_quote_the_compiler(temporary: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        compile_shared("int f(void) { return nothing_like_this; }")
    assert caught.value.code == "TSR0602"
    assert "nothing_like_this" in str(caught.value)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_arithmetic_means_what_it_says(level: int) -> None:
    assert probe(CompileOptions(level=level, openmp=False, libm=True)).failures == ()


def test_the_probes_notice_other_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_SEMANTICS", ("-std=gnu11", "-ffast-math"))
    failed = set(probe(CompileOptions(openmp=False, libm=True)).failures)
    # The flags are those of a fast-math build; only the start file that flushes denormals is never linked.
    assert {"nan", "infinity", "nan_relu", "ordered_sums"} <= failed
    assert "control_unchanged" not in failed


def test_half_precision_and_wide_integers_link() -> None:
    source = """
    typedef _Float16 half;
    __attribute__((visibility("default"))) int go(void) {
      volatile half h = (half)1.5f; volatile __int128 a = 7; volatile __int128 b = 2;
      volatile double d = 3.7; char from[64], to[64]; volatile int n = 64;
      __builtin_memset(from, 1, n); __builtin_memcpy(to, from, n);
      return (int)(a / b) + (int)((float)h * 2) + (int)__builtin_floor(d) + to[63];
    }"""
    if host_target().arch != "x86_64":
        pytest.skip("types of x86-64")
    baseline = CompileOptions(level=0, openmp=False, march="x86-64", libm=True)
    assert (
        load_shared(compile_shared(source, options=baseline), parallel=False).entry("go")() == 3 + 3 + 3 + 1
    )


def test_host_has_what_kernels_count_on() -> None:
    target = host_target()
    assert target.kind == target.name == "cpu"
    assert target.arch and target.features == tuple(sorted(target.features))
    assert len(cpu_identity()) == 64


def test_options_are_part_of_the_key() -> None:
    compiler = find_compiler()
    base = CompileOptions()
    others = [
        CompileOptions(level=3),
        CompileOptions(march="x86-64-v3"),
        CompileOptions(libm=True),
        CompileOptions(extra=("-fno-tree-vectorize",)),
    ]
    keys = {toolchain_key(compiler, options, None) for options in [base, *others]}
    assert len(keys) == 1 + len(others)


@pytest.mark.parametrize("wrong", ["-fplugin=x.so", "-ffast-math", "-Wl,x", "-o", "@file", "-include/x"])
def test_options_that_could_do_more_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        CompileOptions(extra=(wrong,))
    with pytest.raises(ValueError):
        CompileOptions(march=f"native {wrong}")


def test_no_compiler() -> None:
    with config.override(cc="no-such-compiler-anywhere"), pytest.raises(ResourceError) as caught:
        find_compiler()
    assert caught.value.code == "TSR0601"


def test_an_empty_search_path_has_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError) as caught:
        find_compiler()
    assert caught.value.code == "TSR0601"


def test_relative_folders_of_the_search_path_do_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(tmp_path / "gcc", "touch planted")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".")
    with pytest.raises(ResourceError):
        find_compiler()
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("text", ["gcc; touch x", "gcc -v", "$(touch x)", "`touch x`", "gcc && touch x"])
def test_the_named_compiler_is_one_program(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TESSERA_CC", text)
    config.refresh()
    try:
        with pytest.raises(ResourceError) as caught:
            compile_shared(ANSWER)
    finally:
        monkeypatch.delenv("TESSERA_CC")
        config.refresh()
    assert caught.value.code == "TSR0601"
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_is_no_compiler(tmp_path: Path) -> None:
    with config.override(cc="/bin/false"), pytest.raises(ResourceError) as caught:
        find_compiler()
    assert caught.value.code == "TSR0601"


def test_a_crash_gets_a_second_chance(tmp_path: Path, temporary: Path) -> None:
    real = find_compiler().path
    body = f'case "$*" in *-O1*) exec {real} "$@";; esac\nkill -SEGV $$'
    with config.override(cc=script(tmp_path / "crashing", body)):
        data = compile_shared(ANSWER)
    assert load_shared(data, parallel=False).entry("answer")() == 42
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("kill -SEGV $$", "SIGSEGV"),
        ('echo "cc1: internal compiler error: in fold" >&2; exit 4', "internal compiler error"),
        ("exit 0", "without a result"),
        ("exit 3", "exit status 3"),
    ],
)
def test_a_compiler_that_always_fails(tmp_path: Path, temporary: Path, body: str, told: str) -> None:
    name = script(tmp_path / "failing", body)
    with config.override(cc=name), pytest.raises(ResourceError) as caught:
        compile_shared(ANSWER)
    assert caught.value.code == "TSR0602"
    assert told in str(caught.value)
    assert list(temporary.iterdir()) == []


def test_a_compiler_that_hangs_is_killed_with_its_children(tmp_path: Path, temporary: Path) -> None:
    pids = tmp_path / "pids"
    body = f"sleep 600 &\necho $! >> {pids}\necho $$ >> {pids}\nwait"
    with config.override(cc=script(tmp_path / "hanging", body)), pytest.raises(ResourceError) as caught:
        compile_shared(ANSWER, timeout=0.2)
    assert caught.value.code == "TSR0602"
    assert "0.2 s" in str(caught.value)
    assert list(temporary.iterdir()) == []
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 4  # two tries, each a shell and its child
    assert all(ended(pid) for pid in started)


def ended(pid: int) -> bool:
    """Whether a process that was killed is gone: the system takes a moment, and nobody waits for a child's child."""
    limit = time.monotonic() + 10.0
    while running(pid) and time.monotonic() < limit:
        time.sleep(0.01)
    return not running(pid)


def running(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")


INTERRUPTED = """
import signal, sys
from tessera import config
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from tessera.backends.c.toolchain import compile_shared, find_compiler
with config.override(cc=sys.argv[1]):
    find_compiler()
    try:
        compile_shared("int x;")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
library = compile_shared("int x;")
print("works", len(library) > 0, flush=True)
"""


def test_an_interrupt_kills_the_compiler_and_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    body = f"echo $$ > {started}\nsleep 600"
    command = [sys.executable, "-c", INTERRUPTED, script(tmp_path / "slow", body)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    compiler = int(started.read_text())  # returns when the stand-in compiler runs
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=60)
    assert output.split() == ["interrupted", "works", "True"]
    assert child.returncode == 0
    assert ended(compiler)
    assert list(temporary.iterdir()) == []


def test_predictable_names_in_a_public_folder_do_not_matter(temporary: Path) -> None:
    temporary.chmod(0o1777)
    for name in ("tessera", "tessera-cache", f"tessera-{os.getuid()}", "kernel.c"):
        (temporary / name).symlink_to("/etc/passwd")
    before = sorted(temporary.iterdir())
    assert load_shared(compile_shared(ANSWER), parallel=False).entry("answer")() == 42
    assert sorted(temporary.iterdir()) == before


def test_source_and_result_are_private_while_compiling(tmp_path: Path, temporary: Path) -> None:
    seen = tmp_path / "seen"
    name = script(tmp_path / "spy", f"stat -c %a . > {seen}; exit 3")
    old = os.umask(0)
    try:
        with config.override(cc=name), pytest.raises(ResourceError):
            compile_shared(ANSWER)
    finally:
        os.umask(old)
    assert stat.S_IMODE(int(seen.read_text(), 8)) == 0o700


def test_the_compiler_does_not_read_the_callers_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("CPATH", "/planted")
    monkeypatch.setenv("COMPILER_PATH", "/planted")
    name = script(tmp_path / "spy", f"env > {seen}; exit 3")
    with config.override(cc=name), pytest.raises(ResourceError):
        compile_shared(ANSWER)
    assert "planted" not in seen.read_text()
