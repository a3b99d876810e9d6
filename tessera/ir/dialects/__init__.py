"""Every operation Tessera knows, as values: ``OPS`` maps names to records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from types import MappingProxyType

from tessera.ir.dialects import (
    block,
    compare,
    composite_index,
    composite_join,
    composite_linalg,
    composite_loss,
    composite_misc,
    composite_more,
    composite_norm,
    composite_reduce,
    composite_shape,
    contract,
    control,
    create,
    extern,
    extern_conv,
    index,
    library,
    math,
    pointwise,
    random,
    reduce,
    region,
    scan,
    shape,
    slicing,
    special,
    tile,
)
from tessera.ir.record import Kind, OpRecord

#: Operations with a body of their own.
CONTROL_OPS: tuple[OpRecord, ...] = control.OPS
REGION_OPS: tuple[OpRecord, ...] = region.REGION_OPS
TILE_OPS: tuple[OpRecord, ...] = tile.TILE_OPS
BLOCK_OPS: tuple[OpRecord, ...] = block.BLOCK_OPS

#: The operations of the tensor dialect, primitives and composites.
TENSOR_OPS: tuple[OpRecord, ...] = (
    *math.OPS,
    *compare.OPS,
    *pointwise.OPS,
    *special.OPS,
    *reduce.OPS,
    *shape.OPS,
    *slicing.OPS,
    *index.OPS,
    *create.OPS,
    *random.OPS,
    *library.OPS,
    *contract.OPS,
    *composite_reduce.OPS,
    *composite_shape.OPS,
    *composite_join.OPS,
    *composite_index.OPS,
    *composite_norm.OPS,
    *composite_loss.OPS,
    *composite_linalg.OPS,
    *composite_misc.OPS,
    *extern.OPS,
    *extern_conv.OPS,
    *scan.OPS,
    *composite_more.OPS,
)


def table(records: Iterable[OpRecord]) -> Mapping[str, OpRecord]:
    """Records by name. Raises ValueError when a name is taken twice."""
    found: dict[str, OpRecord] = {}
    for record in records:
        if record.name in found:
            raise ValueError(f"two records are named `{record.name}`")
        found[record.name] = record
    return MappingProxyType(found)


OPS: Mapping[str, OpRecord] = table(chain(TENSOR_OPS, CONTROL_OPS, REGION_OPS, TILE_OPS, BLOCK_OPS))

#: Which fields a record of each kind needs, beside a signature and a doc.
_NEEDED: Mapping[Kind, tuple[str, ...]] = MappingProxyType({
    Kind.MAP: ("infer",), Kind.REDUCE: ("infer", "reduction"), Kind.SCAN: ("infer", "reduction", "reference"),
    Kind.CONTRACT: ("infer", "reference"), Kind.VIEW: ("infer", "pieces"), Kind.INDEX: ("infer", "pieces"),
    Kind.CREATE: ("infer", "define"), Kind.RANDOM: ("infer", "define"), Kind.EXTERN: ("infer", "reference"),
    Kind.COMPOSITE: ("define",), Kind.CONTROL: ("infer_body", "define"),
    Kind.COLLECTIVE: (), Kind.REGION: (), Kind.TILE: (),
})  # fmt: skip


def missing(records: Iterable[OpRecord] = TENSOR_OPS) -> list[str]:
    """What records lack, one line each; empty when every record is total."""
    found = []
    for record in records:
        for field in ("doc", *_NEEDED[record.kind]):
            if not getattr(record, field):
                found.append(f"{record.name}: no {field}")
        if record.kind is Kind.EXTERN and not (record.torch or record.eager):
            found.append(f"{record.name}: no way to run it")
    return found
