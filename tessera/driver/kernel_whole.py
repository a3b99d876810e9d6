"""A kernel whose block sizes nobody gave as a function on whole tensors: compiled, differentiated and dispatched like
any other.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from tessera.backends.eager.function import run_function
from tessera.driver.decorated import Function
from tessera.driver.kernel_call import param_of, solved, words_for
from tessera.frontend.hints import ANY, Hint
from tessera.frontend.kernel.program import Buffer, KernelProgram
from tessera.frontend.kernel.replay import replay
from tessera.frontend.session import current
from tessera.frontend.spec import EMPTY, FunctionSpec, ParamSpec
from tessera.ir.graph import Function as IRFunction
from tessera.ir.graph import Operation
from tessera.ir.record import Kind
from tessera.passes.whole import whole
from tessera.runtime.recent import Recent


class WholeKernel(Function[..., Any]):
    """A kernel for one way of calling it. It takes the tensors and floats of the program in the order of ``names``,
    then ``sizes`` that these leave open, and gives its outputs in their order; those of ``written`` it writes to the
    tensors given for them, which stand last.
    """

    def __init__(
        self, spec: FunctionSpec, program: KernelProgram, given: Mapping[str, Any], written: Sequence[str],
        free: Sequence[str],
    ) -> None:  # fmt: skip
        made = whole(program.function, frozenset(free))
        self.declared, self.program, self.given, self.made = spec, program, given, made
        self.written = tuple(written)
        called = {v: name for name, v in program.params.items()}  # a value has another name where a dim has that
        self.outputs, self.added = tuple(called[p] for p in made.outputs), frozenset(called[p] for p in made.added)
        self.sizes = self._open()
        self.names = (*(called[p] for p in made.inputs), *self.sizes, *self.written)
        self.defaulted = self._trailing()
        self.words = tuple(words_for(self.names, self.sizes))
        super().__init__(_Body(self), updates=self.words[len(self.names) - len(written) :])

    def _open(self) -> tuple[str, ...]:
        """The sizes that a call gives by ints, or by outputs alone, and that the arguments do not tell."""
        dims = [d for p in self.made.inputs for d in p.type.dims]
        written = (d for name in self.outputs for d in self.program.params[name].type.dims if d.is_name)
        found: list[str] = []
        for name in (*(p.name for p in self.declared.params if p.binds), *map(str, written)):
            if name not in solved(dims, found):
                found.append(name)
        return tuple(found)

    def _trailing(self) -> dict[str, float]:
        """The last of what it takes where these are floats with a value of their own."""
        found: dict[str, float] = {}
        for name in reversed(self.names):
            p = self.declared.by_name.get(name)
            if p is None or p.kind != "scalar" or type(p.default) is not float or name in self.written:
                break
            found[name] = p.default
        return found

    def leaves_out(self, place: int, value: Any) -> bool:
        """May an argument with this value be left out, if those behind it are?"""
        name = self.names[place]
        return name in self.defaulted and type(value) is float and repr(value) == repr(self.defaulted[name])

    @property
    def recent(self) -> Recent | None:
        """What recognises the call that it serves again and again."""
        return self._recent

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """What it takes of the arguments of a call."""
        return [values[name] if values.get(name) is not None else self._size(values, name) for name in self.names]

    def _size(self, values: Mapping[str, Any], name: str) -> Any:
        """A size that an output tells."""
        for output in self.outputs:
            for axis, d in enumerate(self.program.params[output].type.dims):
                if str(d) == name and values[output] is not None:
                    return values[output].shape[axis]
        raise AssertionError(f"the size {name} is known where a call is bound")

    def describe(self) -> FunctionSpec:
        """The declared parameters that the program has."""
        params = tuple(self._described(name, word) for name, word in zip(self.names, self.words, strict=True))
        return replace(self.declared, function=self.fn, params=params, returns=ANY, updates=self.options["updates"])

    def _described(self, name: str, word: str) -> ParamSpec:
        if name in self.sizes:
            return ParamSpec(name, Hint("static", type=int), binds=True)
        given = self.given[name]
        leads = given.leads if isinstance(given, Buffer) else 0
        made = param_of(self.declared.by_name[name], given, self.program.params[name].type.dims[leads:])
        return replace(made, name=word, default=self.defaulted.get(name, EMPTY))


class _Body:
    """What is traced: the operations of a kernel on whole tensors. It is no function, because it reads nothing that
    could change between two calls.
    """

    def __init__(self, kernel: WholeKernel) -> None:
        self.kernel, user = kernel, kernel.declared.function
        self.__name__, self.__qualname__, self.__wrapped__ = user.__name__, user.__qualname__, user
        self.__module__, self.__doc__ = user.__module__, None
        how, defaulted = inspect.Parameter.POSITIONAL_OR_KEYWORD, kernel.defaulted
        self.values = tuple(defaulted.get(name) for name in kernel.names)
        self.__signature__ = inspect.Signature([
            inspect.Parameter(word, how, default=defaulted.get(name, EMPTY))
            for name, word in zip(kernel.names, kernel.words, strict=True)
        ])  # fmt: skip

    def __call__(self, *args: Any) -> Any:
        k, session = self.kernel, current()
        args = (*args, *self.values[len(args) :])
        count, last = len(k.made.inputs), len(k.names) - len(k.written)
        f, sizes = k.made.function, dict(zip(k.sizes, args[count:last], strict=True))
        results: Sequence[Any] = (
            run_function(f, list(args[:count]), sizes=sizes, grad=torch.is_grad_enabled()) if session is None
            else replay(session, f, args[:count], sizes)
        )  # fmt: skip
        found = dict(zip(k.outputs, results, strict=True))
        for name, target in zip(k.written, args[last:], strict=True):
            (target.add_ if name in k.added else target.copy_)(found.pop(name))
        kept = tuple(found.values())
        return None if not kept else kept[0] if len(kept) == 1 else kept


def may_fail(f: IRFunction) -> bool:
    """May a function find while it runs that it cannot go on? Then what it writes may be half of it."""
    return any(op.record.kind is Kind.INDEX or _divides(op) for op in f.ops)


def _divides(op: Operation) -> bool:
    """Is it an operation on integers that is not defined for 0?"""
    return op.record.kind is Kind.MAP and op.results[0].type.dtype.is_int and op.record.domain[0] > 0


__all__ = ["WholeKernel", "may_fail"]
