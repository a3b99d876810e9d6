"""What the optimizers share: parameters gathered into lists that one kernel takes, clipping, scales, state."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from itertools import chain, filterfalse, repeat
from operator import attrgetter, is_
from typing import Any

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from tessera import DTypeError
from tessera.optim import rules

Group = dict[str, Any]
_watched = torch.autograd._profiler_enabled
_is_none = partial(is_, None)
_GRADIENT, _PARAMETER = attrgetter("dtype", "layout"), attrgetter("dtype", "device")
#: A compiled update: it writes to lists of tensors, and gives a norm or None.
Rule = Callable[..., torch.Tensor | None]


class Slot:
    """A parameter with its state as it was found last: what the state held, the tensors that a kernel takes, ``count``
    the memory of its number of steps, seen without torch or NumPy, which take longer over one number. ``fresh`` says
    that the state has just been made, and nothing was written to it.
    """

    __slots__ = ("count", "fresh", "held", "names", "numbers", "param", "plain", "state", "tensors")

    def __init__(self, param: torch.Tensor, state: dict[str, Any], names: tuple[str, ...], fresh: bool) -> None:
        self.param, self.state, self.names, self.fresh = param, state, names, fresh
        self.held = list(state.values())  # what is kept has a number of its own
        self.numbers = list(map(id, self.held))
        self.tensors = tuple(state[name] for name in names if name != "step")
        self.count: Any = memoryview(state["step"].numpy()) if "step" in names else None
        self.plain = param.is_contiguous()

    def holds(self, state: object, names: tuple[str, ...]) -> bool:
        """Is the state still the one that was found? Without any there is nothing to find."""
        if names != self.names or (names and state is not self.state):
            return False
        return list(map(id, self.state.values())) == self.numbers


@dataclass
class Batch:
    """Parameters of one group that one kernel updates. ``lists`` are those, their gradients, and each of their states.
    ``done`` says how often they were updated, ``fresh`` that their states were just made.
    """

    group: Group
    done: float
    fresh: bool
    slots: list[Slot]
    lists: list[list[torch.Tensor]]

    def add(self, slot: Slot, row: Sequence[torch.Tensor]) -> None:
        """One more parameter, with its gradient and its states."""
        self.slots.append(slot)
        self.lists = self.lists or [[] for _ in row]
        for column, x in zip(self.lists, row, strict=True):
            column.append(x)


class Known:
    """The batches of a step, for later ones: recognised as long as parameters, states and groups are the very objects
    that they were, the same parameters have gradients, and those are of the same dtype.
    """

    __slots__ = ("batches", "counts", "held", "kinds", "names", "params", "places", "rows", "state")

    def __init__(self, optimizer: Optimizer, batches: list[Batch]) -> None:
        groups = optimizer.param_groups
        # Without the gradients, which are others in every step.
        self.batches = [replace(b, lists=[b.lists[0], [], *b.lists[2:]]) for b in batches]
        self.state = optimizer.state
        self.names = [(group["params"], optimizer.names(group)) for group in groups]
        # Everything that could be exchanged, one behind the other: how many members each has, and all of them.
        self.rows: list[Collection[Any]] = [groups, *(group["params"] for group in groups), self.state.values()]
        self.rows += [held.values() for held in self.state.values()]
        self.counts = [len(row) for row in self.rows]
        self.held = [x for row in self.rows for x in row]
        self.params = [p for group in groups for p in group["params"]]
        self.kinds = self._kinds([p.grad for p in self.params])
        numbers = {id(p): n for n, p in enumerate(self.params)}
        self.places = [[numbers[id(slot.param)] for slot in batch.slots] for batch in batches]

    @staticmethod
    def of(optimizer: Optimizer, batches: list[Batch]) -> Known | None:
        """What is known after a step; None where the next one may group the parameters in another way."""
        slots = [slot for batch in batches for slot in batch.slots]
        changes = any(slot.fresh or not slot.plain for slot in slots)
        return None if changes or len({id(slot.param) for slot in slots}) < len(slots) else Known(optimizer, batches)

    def again(self, optimizer: Optimizer) -> list[Batch] | None:
        """The batches of this step; None where something is not as it was."""
        if optimizer.state is not self.state or list(map(len, self.rows)) != self.counts:
            return None
        if not all(map(is_, chain.from_iterable(self.rows), self.held)):
            return None
        for group, (params, names) in zip(optimizer.param_groups, self.names, strict=True):
            if group["params"] is not params or optimizer.names(group) != names:
                return None
        grads = [p.grad for p in self.params]
        return self._renewed(grads) if self._kinds(grads) == self.kinds else None

    def _kinds(self, grads: Sequence[torch.Tensor | None]) -> list[object]:
        """What the grouping of parameters depends on, beside their states."""
        some = list(map(is_, grads, repeat(None)))
        return [some, *map(_GRADIENT, filterfalse(_is_none, grads)), *map(_PARAMETER, self.params)]

    def _renewed(self, grads: list[torch.Tensor | None]) -> list[Batch] | None:
        found = []
        for batch, places in zip(self.batches, self.places, strict=True):
            done = [slot.count[()] for slot in batch.slots if slot.count is not None]
            if done and done.count(done[0]) != len(done):
                return None
            given: Any = [grads[n] for n in places]
            lists = [batch.lists[0], given, *batch.lists[2:]]
            found.append(Batch(batch.group, done[0] if done else 0.0, False, batch.slots, lists))
        return found


@dataclass(frozen=True)
class Clip:
    """How gradients are changed before they are used: see ``rules``."""

    factor: torch.Tensor | None = None
    inverse: float = 1.0
    limit: float = 0.0
    clips: bool = False

    @property
    def numbers(self) -> tuple[float, float, bool, bool]:
        """The arguments of a rule from ``inverse`` to ``clips``."""
        return self.inverse, self.limit, self.inverse != 1.0, self.clips


def _light(method: Callable[..., None]) -> Callable[..., None]:
    """A method of torch's optimizer that does not load torch's compiler, for seconds, to be left alone by it: while it
    is not loaded it compiles nothing.
    """
    bare = getattr(method, "__wrapped__", method)

    @wraps(bare)
    def call(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        (method if "torch._dynamo" in sys.modules else bare)(self, *args, **kwargs)

    return call


def _hooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step with what torch puts around it, where that has anything to do: hooks, and its name in profiles. Its ways
    there take as long as the work of a small step.
    """
    full = torch.optim.Optimizer.profile_hook_step(step)

    @wraps(step)
    def call(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        hooks = own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks
        return (full if hooks or _watched() else step)(self, *args, **kwargs)

    call.hooked = True  # type: ignore[attr-defined]  # or torch would do it again
    return call


class Optimizer(torch.optim.Optimizer):
    """A torch optimizer whose step is a Tessera function over all parameters at once.

    Subclasses say which states a parameter has (``names``) and which function updates a batch (``update``).
    """

    #: GradScaler hands over the scale of the loss, and whether a gradient is infinite.
    _step_supports_amp_scaling = True
    #: States of the shape of the parameter, which ``load_state_dict`` keeps in their dtype.
    NAMES: tuple[str, ...] = ()

    add_param_group = _light(torch.optim.Optimizer.add_param_group)
    _zeroed = _light(torch.optim.Optimizer.zero_grad)

    def __init__(
        self, params: Any, defaults: dict[str, Any], max_norm: float | None, error_if_nonfinite: bool,
        state_dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        _refuse(defaults)
        if max_norm is not None and not max_norm >= 0.0:
            raise ValueError(f"max_norm is {max_norm}, not 0 or more")
        if state_dtype is not None and not state_dtype.is_floating_point:
            raise ValueError(f"state_dtype is {state_dtype}, not a floating dtype")
        self.max_norm = max_norm
        self.error_if_nonfinite = error_if_nonfinite
        self.state_dtype = state_dtype
        self.grad_norm: torch.Tensor | None = None
        self._slots: dict[int, Slot] = {}
        self._known: Known | None = None
        super().__init__(params, defaults)

    # -- what subclasses say

    def names(self, group: Group) -> tuple[str, ...]:
        """The states of a parameter, ``step`` among them where steps are counted."""
        raise NotImplementedError

    def update(self, batch: Batch, clip: Clip) -> torch.Tensor | None:
        """Update the parameters of a batch; gives the norm of their gradients if ``clip`` asks for it."""
        raise NotImplementedError

    # -- a step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let go of the gradients, or fill them with zeros unless ``set_to_none``."""
        if not set_to_none or _watched() or torch.compiler.is_dynamo_compiling():
            self._zeroed(set_to_none)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @_hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; gives the loss of ``closure``, which is called first.

        The gradients keep their values: clipping and scaling happen on the way. Raises DTypeError for complex and
        sparse gradients, and RuntimeError for a norm that is not finite where ``error_if_nonfinite`` was asked for.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    def _step(self) -> None:
        found = getattr(self, "found_inf", None)
        if found is not None and float(found):
            return
        scale = getattr(self, "grad_scale", None)
        inverse = 1.0 if scale is None else 1.0 / float(scale)
        batches = self._batches()
        if not batches:
            return
        clip = self._clip(batches, inverse)
        for batch in batches:
            norm = self.update(batch, clip)
            done = batch.done + 1.0
            for slot in batch.slots:
                slot.fresh = False
                if slot.count is not None:
                    slot.count[()] = done
            if norm is not None:
                self.grad_norm = norm

    def _clip(self, batches: Sequence[Batch], inverse: float) -> Clip:
        """Of one batch the kernel finds the norm itself; of several it must be known before."""
        if self.max_norm is None:
            return Clip(None, inverse)
        if len(batches) == 1 and not self.error_if_nonfinite:
            return Clip(None, inverse, float(self.max_norm), True)
        self.grad_norm = total = _norm(batches, inverse)
        if self.error_if_nonfinite and not bool(torch.isfinite(total)):
            raise RuntimeError(f"the norm of the gradients is {float(total)}, so they cannot be clipped")
        return Clip(torch.clamp(self.max_norm / (total + 1e-6), max=1.0), inverse)

    def _batches(self) -> list[Batch]:
        """The parameters that have gradients, together where one kernel can update them."""
        again = None if self._known is None else self._known.again(self)
        if again is None:
            again = self._grouped()
            self._known = Known.of(self, again)
        return again

    def _grouped(self) -> list[Batch]:
        found: dict[Hashable, Batch] = {}
        slots, state_of = self._slots, self.state.get
        batch: Batch | None = None
        for number, group in enumerate(self.param_groups):
            names, before = self.names(group), None
            for p in group["params"]:
                g = p.grad
                if g is None:
                    continue
                slot = slots.get(id(p))
                if slot is None or slot.param is not p or not slot.holds(state_of(p), names):
                    slot = slots[id(p)] = self._slot(p, names)
                done = 0.0 if slot.count is None else slot.count[()]
                kind = (slot.tensors[0].dtype if slot.tensors else None, p.dtype, g.dtype, p.device, done, slot.fresh)
                if kind != before or batch is None:
                    _check(p, g)
                    before, key = kind, (number, *kind)
                    batch = found.get(key)
                    if batch is None:
                        batch = found[key] = Batch(group, done, slot.fresh, [], [])
                row = (p, g, *slot.tensors)
                if not (slot.plain and g.layout is torch.strided):
                    _check(p, g)
                    row = lined_up(row)
                batch.add(slot, row)
        return list(found.values())

    def _slot(self, p: torch.Tensor, names: tuple[str, ...]) -> Slot:
        """What is known of a parameter, with the states that it does not have yet."""
        if p.is_complex():
            raise DTypeError(f"a parameter of dtype `{p.dtype}`", code="TSR0301",
                             helps=["optimize `torch.view_as_real` of it"])  # fmt: skip
        state = self.state[p] if names else {}
        fresh = False
        for name in names:
            if name == "step":
                state[name] = _as_step(state.get(name, 0.0))
            elif state.get(name) is None:
                state[name] = torch.zeros_like(p, dtype=self.state_dtype, memory_format=torch.preserve_format)
                fresh = True
        return Slot(p, state, names, fresh)

    # -- state

    def __getstate__(self) -> dict[str, Any]:
        own = ("max_norm", "error_if_nonfinite", "state_dtype", "grad_norm")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self._slots, self._known = {}, None

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state of this optimizer or of torch's of the same name.

        States are cast to the dtype of their parameter, as torch does it, or to ``state_dtype``.
        """
        super().load_state_dict(dict(state_dict))
        if self.state_dtype is None:
            return
        saved = (n for group in state_dict["param_groups"] for n in group["params"])
        for number, p in zip(saved, (p for g in self.param_groups for p in g["params"]), strict=True):
            given = state_dict["state"].get(number, {})
            for name in self.NAMES:
                if isinstance(given.get(name), torch.Tensor):
                    self.state[p][name] = given[name].to(p.device, self.state_dtype, copy=True)


def lined_up(row: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Tensors of one shape so that their elements pair up one after the other in memory.

    What is dense in another order than that of the dims, like channels-last weights, is seen as it lies in memory.
    """
    first = row[0]
    if first.is_contiguous():
        return row
    steps = first.stride()
    if any(x.stride() != steps for x in row[1:]) or not _is_dense(first):
        return row
    return tuple(x.as_strided((x.numel(),), (1,)) for x in row)


def _is_dense(x: torch.Tensor) -> bool:
    expected = 1
    for step, size in sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n != 1):
        if step != expected:
            return False
        expected *= size
    return True


def _norm(batches: Iterable[Batch], inverse: float) -> torch.Tensor:
    """The norm of all gradients, those of different dtypes and devices together."""
    lists: dict[Hashable, list[torch.Tensor]] = {}
    for batch in batches:
        for g in batch.lists[1]:
            lists.setdefault((g.dtype, g.device), []).append(g)
    norms = [rules.norm(members, inverse) for members in lists.values()]
    if len(norms) == 1:
        return norms[0]
    whole = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device, torch.float64) for n in norms]))
    return whole if any(n.dtype is torch.float64 for n in norms) else whole.float()


def _check(p: torch.Tensor, g: torch.Tensor) -> None:
    if g.layout is not torch.strided:
        raise DTypeError("a sparse gradient: this optimizer takes dense ones", code="TSR0301",
                         helps=["`torch.optim.SparseAdam` takes sparse ones"])  # fmt: skip


def _refuse(defaults: Mapping[str, Any]) -> None:
    """Arguments of torch's optimizers that ask for what this one is not."""
    if defaults.get("differentiable"):
        raise ValueError("differentiable=True: the step writes to the parameters, and has no gradient")
    if defaults.get("capturable"):
        raise ValueError("capturable=True: the step reads the number of steps and the learning rate as Python numbers")
    if defaults.get("fused") and defaults.get("foreach"):
        raise ValueError("fused=True and foreach=True: at most one of them")


def at_least(name: str, value: Any, low: float = 0.0) -> None:
    """Refuse a number below a bound, and a tensor of several. Raises ValueError."""
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        raise ValueError(f"{name} is a tensor of {value.numel()} elements, not of one")
    if not float(value) >= low:
        raise ValueError(f"{name} is {float(value)}, not {low:g} or more")


def betas_of(betas: Sequence[Any]) -> tuple[float, float]:
    """Two decay rates from 0 up to 1. Raises ValueError."""
    if len(betas) != 2:
        raise ValueError(f"betas are {len(betas)} numbers, not two")
    for n, beta in enumerate(betas):
        if not 0.0 <= float(beta) < 1.0:
            raise ValueError(f"betas[{n}] is {float(beta)}, not from 0 up to 1")
    return float(betas[0]), float(betas[1])


def _as_step(found: Any) -> torch.Tensor:
    """A number of steps as torch keeps it: a float tensor of rank 0 on the CPU."""
    known = isinstance(found, torch.Tensor) and found.device.type == "cpu" and not found.dim()
    if known and found.dtype in (torch.float32, torch.float64):
        return found
    dtype = torch.float64 if torch.get_default_dtype() is torch.float64 else torch.float32
    return torch.tensor(float(found), dtype=dtype)
