"""Triton text and what surrounds it, without running any: names, tables, layouts, arguments, launches."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tessera.backends.base import Target
from tessera.backends.triton import intrinsics
from tessera.backends.triton.emit import emit, emit_function
from tessera.backends.triton.helpers import HELPERS
from tessera.backends.triton.source import Bound, TritonSource
from tessera.backends.triton.tiling import power
from tessera.ir.dialects import OPS
from tessera.ir.dtype import DTYPES
from tessera.ir.parser import parse
from tessera.ir.record import Kind
from tessera.schedule.plan import Unschedulable
from tests.backends.triton_cases import CASES, Case

H200 = Target("cuda", "90")


def case(name: str) -> Case:
    return next(c for c in CASES if c.name == name)


def source(name: str) -> TritonSource:
    (kernel, *_) = case(name).stages[2].kernels
    return emit(kernel, H200)


def bound(name: str, **sizes: int) -> Bound:
    return source(name).bind(sizes)[0]


def test_every_intrinsic_has_a_row() -> None:
    needed = {r.name for r in OPS.values() if r.kind is Kind.MAP and r.define is None} - {"cast"}
    assert needed == set(intrinsics.ROWS)


def test_every_helper_is_defined_and_used() -> None:
    rows = (row.template(t) for row in intrinsics.ROWS.values() for t in DTYPES.values())
    casts = (intrinsics.cast("x", a, b) for a in DTYPES.values() for b in DTYPES.values() if b.name in intrinsics.TYPES)
    used = intrinsics.Used()
    for text in (*rows, *casts, "_parts(x)"):
        used.note(text)
    assert set(used.names) == set(HELPERS)


@pytest.mark.parametrize("name", ["rms_norm", "rope", "cross_entropy", "special", "sum_middle"])
def test_the_text_is_python_with_names_of_its_own(name: str) -> None:
    renamed = case(name)
    text = source(name).text
    tree = ast.parse(text)
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
        n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)
    }
    assert not names & {p[0] for p in renamed.params if len(p[0]) > 1}
    assert not any(len(line) > 200 for line in text.splitlines())


def test_user_names_never_reach_the_text() -> None:
    marked = "zz_user_name"
    f = parse(f"""kernel {marked}({marked}_x: in f32[{marked}_D], {marked}_y: out f32[{marked}_D]) {{
      nest(axes=("{marked}_i",), extents=[{marked}_D], vector="{marked}_i") {{
        %{marked}_a = load({marked}_x, index=[{marked}_i]) : f32<{marked}_i>
        %{marked}_b = exp(%{marked}_a)                     : f32<{marked}_i>
                      store({marked}_y, %{marked}_b, index=[{marked}_i])
      }}
    }}""")
    assert marked not in emit_function(f, H200).text


def test_rows_read_as_a_person_would_write_them() -> None:
    text = source("sum_trailing").text
    assert text.split("\n\n\n")[1] == "\n".join((
        "@triton.jit",
        "def nest0_hold(b0, b1, n0, n1, ROWS: tl.constexpr, COLS: tl.constexpr, WIDE: tl.constexpr):",
        "    tile = tl.program_id(0)",
        "    if WIDE:",
        "        tile = tile.to(tl.int64)",
        "    point = tile * ROWS + tl.arange(0, ROWS)[:, None]",
        "    in_rows = point < n0",
        "    i0 = point.to(tl.int64)",
        "    j0 = tl.arange(0, COLS)[None, :]",
        "    in_cols = j0 < n1",
        "    inside_1 = in_rows & in_cols",
        "    load_2 = tl.load(b0 + i0 * n1 + j0, mask=inside_1, other=0.0)",
        "    sum_3 = tl.where(in_cols, load_2, 0.0)",
        "    sum_3 = tl.sum(sum_3, axis=1, keep_dims=True)",
        "    tl.store(b1 + i0, sum_3, mask=in_rows)",
    ))  # fmt: skip


def test_every_nest_is_one_launch() -> None:
    for c in CASES:
        for kernel in c.stages[2].kernels:
            assert len(emit(kernel, H200).nests) == len(kernel.function.ops)


@pytest.mark.parametrize(
    ("sizes", "mode", "rows", "cols"),
    [
        ({"B": 65536, "D": 64}, "hold", 32, 64),
        ({"B": 65536, "D": 100}, "hold", 16, 128),
        ({"B": 64, "D": 64}, "hold", 1, 64),
        ({"B": 4096, "D": 4096}, "hold", 1, 4096),
        ({"B": 4096, "D": 32768}, "hold", 1, 32768),
        ({"B": 4096, "D": 32769}, "loop", 1, 4096),
        ({"B": 1, "D": 1}, "hold", 1, 1),
    ],
)
def test_blocks_follow_the_sizes(sizes: dict[str, int], mode: str, rows: int, cols: int) -> None:
    config = bound("softmax", **sizes).config
    assert (config.mode, config.rows, config.cols) == (mode, rows, cols)
    assert config.grid * rows >= sizes["B"] > (config.grid - 1) * rows


def test_columns_stand_side_by_side() -> None:
    for b in source("sum_leading").bind({"B": 100_000, "D": 1000}):
        assert b.config.cols >= 32
    held = source("softmax_down").bind({"B": 256, "D": 4096})[-1]
    assert (held.config.mode, held.config.rows, held.config.cols) == ("hold", 256, 32)
    looped = source("softmax_down").bind({"B": 5000, "D": 4096})[-1]
    assert looped.config.mode == "loop" and looped.config.cols >= 32


def test_an_empty_tensor_launches_nothing() -> None:
    assert source("softmax").bind({"B": 0, "D": 5}) == ()


def test_the_signature_tells_what_divides_by_sixteen() -> None:
    b = bound("softmax", B=100, D=4096)
    assert b.signature(frozenset({0})) == {"b0": "*fp32:16", "b1": "*fp32", "n0": "i32", "n1": "i32:16"}
    assert bound("softmax", B=100, D=4097).signature(frozenset())["n1"] == "i32"
    assert bound("silu_mul", B=1 << 20, D=1 << 13).signature(frozenset())["n0"] == "i64:16"


def test_positions_have_64_bits_where_32_do_not_hold_them() -> None:
    assert [bound("softmax", B=n, D=16).constants["WIDE"] for n in (1 << 20, 1 << 26, 1 << 31)] == [0, 0, 1]
    assert "strip.to(tl.int64)" in source("silu_mul").text


def test_sizes_of_one_are_compiled_in() -> None:
    (kernel,) = case("softmax_strided").stages[2].kernels
    strides = kernel.function.params[0].type.strides
    sizes = {"B": 100, "D": 64, str(strides[0]): 80, str(strides[1]): 1}
    (b,) = emit(kernel, H200).bind(sizes)
    ones = [a.name for a in b.function.arguments if a.kind == "size" and a.dim is strides[1]]
    assert [b.constants[n] for n in ones] == [1]


def test_what_triton_cannot_hold_is_refused() -> None:
    text = """kernel f(x: in {0}[D], y: out {0}[D]) {{
      nest(axes=("i",), extents=[D], vector="i") {{
        %a = load(x, index=[i]) : {0}<i>
             store(y, %a, index=[i])
      }}
    }}"""
    assert "tl.load" in emit_function(parse(text.format("fp8_e4m3")), H200).text
    with pytest.raises(Unschedulable, match="fp8_e4m3"):
        emit_function(parse(text.format("fp8_e4m3")), Target("cuda", "80"))
    with pytest.raises(Unschedulable, match="int4"):
        emit_function(parse(text.format("int4")), H200)
    with pytest.raises(Unschedulable, match="GPU"):
        emit_function(parse(text.format("f32")), Target("cpu"))


def test_importing_the_backend_does_not_import_triton() -> None:
    code = (
        "import sys; from tessera.backends.triton import aot, emit, launch; "
        "assert 'triton' not in sys.modules or 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_literals_keep_their_precision() -> None:
    assert intrinsics.literal(0.1, DTYPES["f64"]) == "tl.full([], 0.1, tl.float64)"
    assert intrinsics.literal(float("-inf"), DTYPES["f32"]) == 'float("-inf")'
    assert intrinsics.literal(True, DTYPES["bool"]) == "True"


def test_powers_of_two() -> None:
    assert [power(n) for n in (0, 1, 2, 3, 4, 5, 1024, 1025)] == [1, 1, 2, 4, 4, 8, 1024, 2048]


def test_casts_by_class() -> None:
    def text(a: str, b: str) -> str:
        return intrinsics.cast("x", DTYPES[a], DTYPES[b])

    assert text("f32", "bf16") == "x.to(tl.bfloat16)"
    assert text("int32", "bool") == "x != 0" and text("bool", "bool") == "x"
    assert text("f32", "int32") == "_float_to_int(x, -2147483648, 2147483647, -2147483648.0, 2147483648.0, tl.int32)"
