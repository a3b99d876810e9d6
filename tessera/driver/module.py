"""Modules: plain classes that hold parameters become torch modules whose ``forward`` is a compiled function."""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any, TypeVar

import torch

from tessera.diag import Label, ModuleError, caller_span, user_frames
from tessera.driver import checkpoint
from tessera.driver.decorated import Function
from tessera.driver.inspect import Explanation

T = TypeVar("T")

#: Modules whose ``__init__`` is running, by identity, in each thread.
_running = threading.local()
#: The initialisers that are made here.
_initialisers: weakref.WeakSet[Callable[..., None]] = weakref.WeakSet()


class Module(torch.nn.Module):
    """A torch module whose ``forward`` is a `tessera.function`; what `tessera.module` makes of a plain class.

    - No call of ``super().__init__()`` is needed. Parameters, buffers and modules that are assigned to attributes are
      registered, and so are lists, tuples and dicts of modules or of parameters, which become torch's own containers.
      A list or dict that is empty at first is looked at again when ``__init__`` has ended.
    - ``forward`` is proved when the class is defined. Class annotations such as ``weight: Tensor["F", "D"]`` and
      ``heads: int`` say what its objects hold; a dim name that an object has as an int attribute, or as a dim of a
      declared tensor, is that size in each of its methods.
    - Modules inside are traced with it: a call of the outermost one runs one program. Where one of them has hooks, the
      modules run one by one, so that the hooks see tensors.
    - All else is torch's: ``state_dict``, ``to``, ``train``, hooks, ``deepcopy``, pickle, wrappers.

    Raises ModuleError (TSR0113) for an attribute that has the name of one of its methods and is no function, and for
    a list that mixes modules with other things.

    >>> import tessera, torch
    >>> from tessera import Tensor
    >>> class Scale(tessera.Module):
    ...     weight: Tensor["D"]
    ...     def __init__(self, width: int) -> None:
    ...         self.weight = torch.nn.Parameter(torch.ones(width))
    ...     def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    ...         return x * self.weight
    >>> scale = Scale(3)
    >>> scale(torch.ones(2, 3)).shape, scale.num_parameters(), list(scale.state_dict())
    (torch.Size([2, 3]), 3, ['weight'])
    """

    def __init__(self) -> None:
        if "_parameters" not in vars(self):
            super().__init__()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _finish(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _TAKEN and not isinstance(value, _CODE) and getattr(type(self), name) is getattr(Module, name):
            raise _taken(type(self), name, f"{_article(type(value).__name__)} is assigned to it")
        if isinstance(value, list | tuple | dict):
            _set_container(self, name, value)
        else:
            super().__setattr__(name, value)

    def num_parameters(self, trainable: bool = False) -> int:
        """How many numbers the parameters hold, each parameter counted once; of the ``trainable`` ones only, if asked.

        >>> from tessera import nn
        >>> nn.Linear(3, 2).num_parameters()
        8
        """
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, with every mismatch found before anything is copied: then the module stays as it is.

        Raises CheckpointError (TSR0611) that lists all of them: sizes by the dimension names that the class declares,
        numbers of another kind (floating, integer, complex), and where ``strict``, missing and unexpected names.
        """
        checkpoint.check(self, state_dict, strict, assign)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


#: What may be put in the place of a method.
_CODE = (FunctionType, MethodType, functools.partial, Function)
#: The names that a module has, which nothing else of it can have.
_TAKEN = frozenset(name for name in dir(Module) if not name.startswith("_") and callable(getattr(Module, name))) - {
    "forward"
}


@user_frames
def module(cls: type[T]) -> type[T]:
    """Make a plain class a torch module whose ``forward`` is proved and compiled, as `tessera.Module` says.

    The class needs no base class and no ``super().__init__()``. Objects are pickled by the class's qualified name.
    Raises ModuleError (TSR0113) for what is no class, for a frozen dataclass, and for a class that has something else
    than a function under the name of a method of modules.

    >>> import tessera, torch
    >>> from tessera import Tensor
    >>> @tessera.module
    ... class Scale:
    ...     weight: Tensor["D"]
    ...     def __init__(self, width: int) -> None:
    ...         self.weight = torch.nn.Parameter(torch.full((width,), 2.0))
    ...     def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    ...         return x * self.weight
    >>> isinstance(Scale(3), torch.nn.Module), Scale(3)(torch.ones(1, 3)).tolist()
    (True, [[2.0, 2.0, 2.0]])
    """
    return _made(cls, Module)


@user_frames
def fused(cls: type[T]) -> type[T]:
    """As `tessera.module`, for a layer that is meant to become as few kernels as can be: ``layer.report()`` says how
    many they are and what each does.

    >>> import tessera, torch
    >>> from tessera import Tensor
    >>> @tessera.fused
    ... class Twice:
    ...     def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    ...         return torch.relu(x) * 2
    >>> twice = Twice()
    >>> str(twice.report(torch.ones(2, 3))).count("  kernel ")
    1
    """
    return _made(cls, Fused)


def _made(cls: Any, base: type[Module]) -> Any:
    """The class with ``base`` behind it; one that is such a module already, as it is."""
    if not isinstance(cls, type):
        raise _refused(f"{_article(type(cls).__name__)} where a class is needed", "`tessera.function` is for functions")
    if issubclass(cls, base):
        _finish(cls)
        return cls
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    metaclass: Any = type(cls)
    return metaclass(cls.__name__, (cls, base), names)


def _finish(cls: type[Module]) -> None:
    """Give a class of modules what its own code needs: an ``__init__`` that registers, a compiled ``forward``."""
    params = getattr(cls, "__dataclass_params__", None)
    if params is not None and params.frozen:
        text = f"`{cls.__name__}` is a frozen dataclass, and modules take attributes"
        raise _refused(text, "leave out `frozen=True`")
    for name in _TAKEN & {name for one in cls.__mro__ if one not in Module.__mro__ for name in vars(one)}:
        found = inspect.getattr_static(cls, name)
        if not callable(found) and not hasattr(type(found), "__get__"):
            raise _taken(cls, name, f"{_article(type(found).__name__)} stands in the class")
    if cls.__hash__ is None:  # a dataclass compares what its objects hold; modules are told apart
        setattr(cls, "__hash__", object.__hash__)  # noqa: B010
        setattr(cls, "__eq__", object.__eq__)  # noqa: B010
    init: Any = cls.__init__
    if isinstance(init, FunctionType) and init is not Module.__init__ and init not in _initialisers:
        setattr(cls, "__init__", _initialiser(init))  # noqa: B010
    _compile(cls)


def _compile(cls: type[Module]) -> None:
    """The class's ``forward``, compiled where it is a plain function, and proved for objects of the class."""
    forward = inspect.getattr_static(cls, "forward", None)
    if isinstance(forward, Function):
        owner = next(one for one in cls.__mro__ if "forward" in vars(one))
        if owner is cls or not issubclass(owner, Module):
            setattr(cls, "forward", forward)  # noqa: B010 - where classes that derive from this one find it proved
            forward.belong(cls)
    elif isinstance(forward, FunctionType) and forward is not torch.nn.Module.forward:
        setattr(cls, "forward", Function(forward, owner=cls))  # noqa: B010


def _initialiser(init: Callable[..., None]) -> Callable[..., None]:
    """``init`` for an object that is a module before it begins; what it left in lists is registered in the end."""

    @functools.wraps(init)
    def __init__(self: Module, *args: Any, **kwargs: Any) -> None:
        if "_parameters" not in vars(self):
            torch.nn.Module.__init__(self)
        running: set[int] = _running.__dict__.setdefault("ids", set())
        if id(self) in running:
            init(self, *args, **kwargs)
            return
        running.add(id(self))
        try:
            init(self, *args, **kwargs)
        finally:
            running.discard(id(self))
        _settle(self)

    _initialisers.add(__init__)
    return __init__


def _set_container(module: Module, name: str, value: Any) -> None:
    """Set an attribute to a list, tuple or dict; one of modules or parameters becomes torch's container of such."""
    made = _container(type(module), name, value)
    waits = not value and not isinstance(value, tuple) and id(module) in _running.__dict__.get("ids", ())
    held = module._modules
    if held.get(name, module) is None and name in vars(module):
        del held[name]
    torch.nn.Module.__setattr__(module, name, value if made is None else made)
    if waits:
        held[name] = None  # keeps the place in the order of assignments


def _settle(module: Module) -> None:
    """Register what was put into lists and dicts after they were assigned, in the order of the assignments."""
    held = module._modules
    for name in [name for name, one in held.items() if one is None and name in vars(module)]:
        held[name] = _container(type(module), name, vars(module)[name])
        if held[name] is None:
            del held[name]
        else:
            del vars(module)[name]


def _container(cls: type, name: str, value: Any) -> torch.nn.Module | None:
    """The container of torch for modules or parameters in a list, tuple or dict; None for other contents."""
    members = list(value.values() if isinstance(value, dict) else value)
    kinds = {k for k in (torch.nn.Module, torch.nn.Parameter) if any(isinstance(m, k) for m in members)}
    if not kinds or type(value) not in (list, tuple, dict, OrderedDict):
        return None
    (kind, *more) = kinds
    if more or not all(isinstance(m, kind) or (m is None and kind is torch.nn.Module) for m in members):
        other = next(m for m in members if not isinstance(m, kind))
        raise _refused(
            f"`{name}` of `{cls.__name__}` holds {_article(kind.__name__)} beside {_article(type(other).__name__)}",
            "keep what is to be registered in a container of its own",
        )
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key and "." not in key for key in value):
            raise _refused(
                f"`{name}` of `{cls.__name__}` has keys that cannot be part of a name",
                "use texts without a dot as keys",
            )
        return torch.nn.ModuleDict(value) if kind is torch.nn.Module else torch.nn.ParameterDict(value)
    return torch.nn.ModuleList(members) if kind is torch.nn.Module else torch.nn.ParameterList(members)


def _refused(message: str, advice: str) -> ModuleError:
    """TSR0113 at the user's line."""
    span = caller_span()
    labels = () if span is None else (Label(span, "here", True),)
    return ModuleError(message, code="TSR0113", labels=labels, helps=[advice])


def _taken(cls: type, name: str, how: str) -> ModuleError:
    return _refused(f"`{name}` of `{cls.__name__}` is a method of every module, and {how}", "give it another name")


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


class Fused(Module):
    """What `tessera.fused` makes of a class: a module that reports on the kernels of its ``forward``."""

    @user_frames
    def report(self, *args: Any, **kwargs: Any) -> Explanation:
        """What every pass did, and the kernels with their cost; as ``forward.explain``.

        Arguments choose the variant; without any, it is the last one called.
        """
        forward: Any = self.forward
        found: Explanation = forward.explain(*args, **kwargs)
        return found
