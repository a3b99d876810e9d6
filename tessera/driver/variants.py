"""The variants of one function: which serves a call, and how one comes to be."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from tessera import config
from tessera.backends.eager.autocast import state
from tessera.diag import ConfigError, ResourceError, TesseraError, TraceError
from tessera.driver import devices, hooks
from tessera.driver.captured import Link, Reader, Watch
from tessera.driver.gradient import learning
from tessera.driver.guards import check_guards, serves
from tessera.driver.layout import TABLE
from tessera.driver.method import fingerprints, identities, objects_of, owners
from tessera.driver.serving import Refusal, Resolved, input_of
from tessera.driver.variant import Layout, Variant
from tessera.frontend.binding import Bound
from tessera.frontend.receiver import receiver_of
from tessera.frontend.session import error_of
from tessera.frontend.spec import FunctionSpec
from tessera.frontend.trace import Run, Traced
from tessera.frontend.unifying import CallTypes, call_types
from tessera.ir.dtype import f32, f64
from tessera.runtime.pieces import Pieces

#: Variants that differ in nothing but what the function read outside, or what one object among its arguments held; for
#: other values it runs eagerly.
MOST_VALUES = 16
#: Refusals kept for calls of one kind.
MOST_REFUSALS = 64
#: Times that a function is traced because somebody changed meanwhile what it reads.
_ATTEMPTS = 3


class Variants:
    """The variants of a function by the kind of call, made under a lock."""

    def __init__(self, spec: FunctionSpec) -> None:
        self.spec = spec
        self.lock = threading.RLock()
        self.variants: dict[Any, list[Variant]] = {}
        self.refused: dict[Any, list[Refusal]] = {}
        self.compiles = self.from_cache = 0

    def all(self) -> list[Variant]:
        """Every variant there is; other threads may be making more."""
        return [v for group in list(self.variants.values()) for v in list(group)]

    def find(self, bound: Bound, sizes: Any, tensors: list[torch.Tensor], shown: bool = False) -> Resolved:
        """The variant for a call; traced when there is none yet, and compiled unless it is only ``shown``. Raises what
        the call would, or what tracing it would.
        """
        dtypes = [TABLE.tensor_type(t).dtype for t in tensors]
        types = call_types(bound, sizes, [t.shape for t in tensors], dtypes, f64 if f64 in dtypes else f32)
        dense = tuple((isinstance(t, Pieces), t.is_contiguous()) for t in tensors)
        device = devices.device_of(tensors)
        if device.type not in devices.ACCELERATORS:
            device = devices.CPU
        ranks = tuple(t.dim() for t in tensors)
        held = fingerprints(bound)
        key = (bound.key, device, tuple(dtypes), ranks, types.ones, dense, identities(held), state())
        with self.lock:
            known = self._known(key, held)
            alike = [v for v in known if serves(v.traced, types)]
            for variant in reversed(alike):
                links = variant.outside() if variant.held == held else None
                if links is not None:
                    return self._ready((key, held), Resolved(bound, types, variant, tensors, links), shown)
            if len(alike) >= MOST_VALUES:
                raise _too_many(alike)
            variant = self._make((key, held), bound, types, device)
            made = self._ready((key, held), Resolved(bound, types, variant, tensors, variant.watch.links), shown)
            known.append(variant)
            return made

    def _ready(self, key: tuple[Any, Any], resolved: Resolved, shown: bool) -> Resolved:
        """A call with what it runs compiled: the variant, or the variant with its derivative."""
        variant, refusals = resolved.variant, self._refusals(key, resolved.bound)
        resolved.gradient = gradient = learning(variant, resolved.given(), resolved.types.hints, self.spec.max_saved)
        if shown:
            return resolved
        if refusals and not (variant if gradient is None else gradient).compiled:
            _again(refusals, resolved.types)
        try:
            made = variant if gradient is None else gradient.forward
            if not made.compiled:
                made.plan()
                self.compiles += not made.from_cache
                self.from_cache += made.from_cache
        except ConfigError:  # an option that can be set right
            raise
        except (TraceError, ResourceError) as error:
            self._refuse(refusals, resolved.types, error, variant.traced, variant.watch)
            raise
        return resolved

    def _refusals(self, key: tuple[Any, Any], bound: Bound) -> list[Refusal]:
        """Those of calls of one kind: another compiler may do better, and some only have no derivative by some of the
        arguments.
        """
        asks = torch.is_grad_enabled() and tuple(leaf.value.requires_grad for leaf in bound.tensors)
        return self.refused.setdefault((key, config.current(), asks), [])

    def _refuse(
        self, refusals: list[Refusal], types: CallTypes, error: TesseraError, traced: Traced | TesseraError,
        watch: Watch,
    ) -> None:  # fmt: skip
        """Remember an error: the same call would fail again, and slowly."""
        found = traced.detached() if isinstance(traced, Traced) else None
        refusals.append(Refusal(type(error), error.diagnostics, types.hints, types.scalars, found, watch))
        del refusals[:-MOST_REFUSALS]

    def _known(self, key: Any, held: tuple[Any, ...]) -> list[Variant]:
        """The variants for a key. They go, and the tensors that they hold, when an object among the arguments does:
        nothing can ask for them then.
        """
        known = self.variants.get(key)
        if known is None:
            known = self.variants[key] = []
            for x in owners(held):
                weakref.finalize(x, _forget, weakref.ref(self), key).atexit = False
        return known

    def _make(self, key: tuple[Any, Any], bound: Bound, types: CallTypes, device: torch.device) -> Variant:
        """A new variant; or the error of an earlier call that failed as this one would."""
        refusals = self._refusals(key, bound)
        _again(refusals, types)
        traced, watch = self._trace(bound, types, device)
        try:
            if isinstance(traced, TesseraError):
                raise traced
            _check(traced, types)
        except (TraceError, ResourceError) as error:
            self._refuse(refusals, types, error, traced, watch)
            raise
        strided = frozenset(
            p.name
            for p, source in zip(traced.function.params, traced.inputs, strict=True)
            if source.kind != "seed" and _is_strided(input_of(source, bound))
        )
        pieces = frozenset(
            p.name
            for p, source in zip(traced.function.params, traced.inputs, strict=True)
            if source.kind == "leaf" and isinstance(input_of(source, bound), Pieces)
        )
        return Variant(traced, Layout(strided, pieces), device, watch=watch, held=key[1])

    def _trace(self, bound: Bound, types: CallTypes, device: torch.device) -> tuple[Traced | TesseraError, Watch]:
        """Trace with the actual sizes at hand, or find that it cannot be; and see what is read outside."""
        objects = objects_of(bound)
        changed: Link | None = None
        for _ in range(_ATTEMPTS):
            reader = Reader()
            reader.root(self.spec.function, objects)
            refused = hooks.refusal(reader.objects, receiver_of(self.spec, [leaf.value for leaf in bound.leaves]))
            if refused is not None:
                return refused, reader.watch()
            run = Run(
                self.spec, types.inputs, TABLE, types.hints, bound.tree, types.flexible, types.scalars, device=device,
                leads=types.leads,
            )  # fmt: skip
            traced: Traced | TesseraError
            try:
                traced = run.trace()
            except (TraceError, ResourceError) as error:
                traced = error
            changed = reader.effects()
            if changed is None:
                reader.visit(traced.visited if isinstance(traced, Traced) else ())
                return traced, reader.watch()
        name = "a value" if changed is None else changed.name
        raise TraceError(f"{name} changes while the function is traced", code="TSR0406")


def _again(refusals: Sequence[Refusal], types: CallTypes) -> None:
    """Raise the error of an earlier call that failed as this one would."""
    for refusal in refusals:
        if refusal.covers(types):
            raise refusal.again()


def _forget(whose: weakref.ref[Variants], key: Any) -> None:
    """Takes no lock: this runs in whichever thread let go of an object. The key is found by its identity."""
    found = whose()
    if found is not None:
        found.variants.pop(key, None)
        for one in [one for one in list(found.refused) if one[0][0] is key]:
            found.refused.pop(one, None)


def _check(traced: Traced, types: CallTypes) -> None:
    """Raise what tracing found wrong with a function, or a call."""
    if traced.findings:
        raise error_of(traced.findings)
    if traced.deferred is not None:
        raise TraceError(f"the value of `{traced.deferred.what}` is not known", code="TSR0402")
    check_guards(traced, types)


def _too_many(alike: Sequence[Variant]) -> TesseraError:
    """The function was compiled for many values of what it reads outside, and each was new."""
    changed = alike[-1].watch.changed()
    what = "an object that it uses" if changed is None else changed.name
    return TraceError(
        f"{what} has had {len(alike)} values, each compiled for itself", code="TSR0406",
        helps=["pass it as an argument: floats and tensors that are arguments may differ from call to call"],
    )  # fmt: skip


def _is_strided(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and not x.is_contiguous()
