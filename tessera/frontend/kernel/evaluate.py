"""Expressions of a kernel: what is known now is computed, what is known while the kernel runs joins the program."""

from __future__ import annotations

import ast
import builtins
import math
import operator
import types
from collections.abc import Callable, Mapping
from typing import Any

from tessera.diag import TesseraError, TraceError
from tessera.diag.span import is_machinery
from tessera.frontend.handles import Deferred, PoisonHandle, SizeHandle, Stopped
from tessera.frontend.kernel.context import attribute_of, of_expression
from tessera.frontend.kernel.held import Held, HeldMethod
from tessera.frontend.kernel.session import KernelSession, Poisoned
from tessera.frontend.kernel.source import Source
from tessera.frontend.kernel.table import Namespace, TileOp
from tessera.frontend.kernel.values import MISSING, Context, Iteration, Method, OnChip, Unbound, View
from tessera.frontend.kernel.windows import part, sub_view
from tessera.ir.dim import Dim, dim_max, dim_min, floordiv, mod

_BINARY: Mapping[type[ast.AST], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", operator.add), ast.Sub: ("sub", operator.sub), ast.Mult: ("mul", operator.mul),
    ast.Div: ("div", operator.truediv), ast.FloorDiv: ("floordiv", operator.floordiv),
    ast.Mod: ("remainder", operator.mod), ast.Pow: ("pow", operator.pow), ast.MatMult: ("matmul", operator.matmul),
    ast.BitAnd: ("bitwise_and", operator.and_), ast.BitOr: ("bitwise_or", operator.or_),
    ast.BitXor: ("bitwise_xor", operator.xor), ast.LShift: ("shift_left", operator.lshift),
    ast.RShift: ("shift_right", operator.rshift),
}  # fmt: skip
_UNARY: Mapping[type[ast.AST], tuple[str, Callable[[Any], Any]]] = {
    ast.USub: ("neg", operator.neg), ast.UAdd: ("positive", operator.pos), ast.Invert: ("bitwise_not", operator.invert),
    ast.Not: ("logical_not", operator.not_),
}  # fmt: skip
_SIZES: Mapping[type[ast.AST], Callable[[Dim, Dim], Dim]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: floordiv, ast.Mod: mod,
}  # fmt: skip
_COMPARED: Mapping[type[ast.AST], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Eq: ("eq", operator.eq), ast.NotEq: ("ne", operator.ne), ast.Lt: ("lt", operator.lt),
    ast.LtE: ("le", operator.le), ast.Gt: ("gt", operator.gt), ast.GtE: ("ge", operator.ge),
}  # fmt: skip
#: Python's own functions that also take what is known while the kernel runs, by the record that they mean.
_NUMBERS: Mapping[Any, str] = {
    math.sqrt: "sqrt", math.exp: "exp", math.log: "log", math.tanh: "tanh", math.sin: "sin", math.cos: "cos",
    builtins.abs: "abs",
}  # fmt: skip
_REFUSED: Mapping[type[ast.AST], tuple[str, str]] = {
    ast.ListComp: ("a comprehension", "a `for` over a Python range is unrolled"),
    ast.SetComp: ("a comprehension", "a `for` over a Python range is unrolled"),
    ast.DictComp: ("a comprehension", "a `for` over a Python range is unrolled"),
    ast.GeneratorExp: ("a generator", "a `for` over a Python range is unrolled"),
    ast.Lambda: ("a lambda", "a function defined with `def` outside of the kernel can be called"),
    ast.Await: ("`await`", "`tile.wait()` waits for copies"),
    ast.Yield: ("`yield`", "a kernel writes its results with `tile.store`"),
    ast.YieldFrom: ("`yield from`", "a kernel writes its results with `tile.store`"),
    ast.NamedExpr: ("an assignment inside an expression", "assign in a statement of its own"),
    ast.Starred: ("a starred expression", "write the items one by one"),
    ast.Set: ("a set", "use a tuple"),
}

#: Functions of these are no part of the language; those of the library that is written in it are.
_FOREIGN = ("tessera.functional", "tessera.driver", "tessera.frontend", "torch", "functools", "contextlib")
RUN_TIME = (OnChip, View, SizeHandle, PoisonHandle)


def is_static(x: Any) -> bool:
    """Whether a value is known now."""
    return not (isinstance(x, (*RUN_TIME, Context, Iteration, Held, HeldMethod)) or x is MISSING)


class Evaluator:
    """Evaluates expressions of one function. ``env`` are its local names."""

    def __init__(self, session: KernelSession, source: Source, env: dict[str, Any]) -> None:
        self.session, self.source, self.env = session, source, env

    def at(self, node: ast.AST) -> None:
        self.session.here = self.source.span(node)

    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression. Views stay views."""
        found = _EVAL.get(type(node))
        if found is None:
            what, instead = _REFUSED.get(type(node), (f"a {type(node).__name__}", "see the kernel guide"))
            self.session.unsupported(what, instead, self.source.span(node))
        return getattr(self, found)(node)

    def constant(self, node: ast.Constant) -> Any:
        return node.value

    def name(self, node: ast.Name) -> Any:
        found = self.env.get(node.id, MISSING)
        if found is MISSING:
            try:
                return self.source.look_up(node.id)
            except KeyError:
                found = Unbound("it is not defined")
        if isinstance(found, Unbound):
            self.at(node)
            self.session.refuse(TraceError, "TSR0419", f"`{node.id}` has no value here: {found.why}", "no value",
                                helps=["give it a value before"])  # fmt: skip
        return found

    def sequence(self, node: ast.Tuple | ast.List) -> Any:
        items = [self.evaluate(x) for x in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items

    def mapping(self, node: ast.Dict) -> Any:
        pairs = zip(node.keys, node.values, strict=True)
        return {None if k is None else self.evaluate(k): self.evaluate(v) for k, v in pairs}

    def text(self, node: ast.JoinedStr) -> str:
        parts = (v.value if isinstance(v, ast.Constant) else str(self.evaluate(v.value)) for v in node.values
                 if isinstance(v, ast.Constant | ast.FormattedValue))  # fmt: skip
        return "".join(map(str, parts))

    def attribute(self, node: ast.Attribute) -> Any:
        base = self.evaluate(node.value)
        self.at(node)
        if isinstance(base, PoisonHandle):
            return base
        if isinstance(base, OnChip | View | SizeHandle | Context):
            return attribute_of(self.session, base, node.attr)
        if isinstance(base, Held):
            return base.read(self.session, node.attr)
        try:
            return getattr(base, node.attr)
        except AttributeError:
            self.session.refuse(TraceError, "TSR0404", f"`{ast.unparse(node)}` does not exist", "not known",
                                helps=_near(base, node.attr))  # fmt: skip

    def binary(self, node: ast.BinOp) -> Any:
        left, right = self.evaluate(node.left), self.evaluate(node.right)
        self.at(node)
        return self.operate(type(node.op), left, right)

    def operate(self, kind: type[ast.AST], left: Any, right: Any) -> Any:
        record, plain = _BINARY[kind]
        if is_static(left) and is_static(right):
            return self.static(lambda: plain(left, right))
        left, right = self.scalar(left), self.scalar(right)
        whole = [isinstance(x, SizeHandle) or type(x) is int for x in (left, right)]
        if all(whole) and kind in _SIZES:
            found = _SIZES[kind](self.session.dim(left), self.session.dim(right))
            return self.session.given(found)
        return self.apply(record, left, right)

    def scalar(self, x: Any) -> Any:
        """A single integer of memory is loaded: it takes part in the arithmetic of sizes."""
        return self.session.fetch(x) if isinstance(x, View) and not x.dims else x

    def apply(self, record: str, *args: Any, form: str = "operator") -> Any:
        for x in args:
            if not isinstance(x, (*RUN_TIME, bool, int, float)):
                self.session.refuse(TraceError, "TSR0404", f"`{record}` of a {type(x).__name__}", "no block, no number")
        session = self.session
        if all(isinstance(x, SizeHandle | int | float) for x in args):  # at least one operand has a value of its own
            first = next(n for n, x in enumerate(args) if isinstance(x, SizeHandle))
            args = tuple(OnChip(session, session.number(x._dim)) if n == first else x for n, x in enumerate(args))
        return session.call(session.table.records[record], args, {}, form)

    def unary(self, node: ast.UnaryOp) -> Any:
        x = self.evaluate(node.operand)
        self.at(node)
        if is_static(x):
            return self.static(lambda: _UNARY[type(node.op)][1](x))
        x = self.scalar(x)
        if isinstance(x, SizeHandle) and isinstance(node.op, ast.USub):
            return self.session.given(-x._dim)
        if isinstance(node.op, ast.UAdd):
            return x
        return self.apply(_UNARY[type(node.op)][0], x)

    def logic(self, node: ast.BoolOp) -> Any:
        """``and`` and ``or``: what is static is decided now, the rest is logic on bools."""
        is_and = isinstance(node.op, ast.And)
        found: Any = MISSING
        for one in node.values:
            x = self.evaluate(one)
            if is_static(x):
                if bool(x) is not is_and:
                    return x
                if found is MISSING and one is node.values[-1]:
                    return x
                continue
            self.at(node)
            found = x if found is MISSING else self.apply("logical_and" if is_and else "logical_or", found, x)
        return is_and if found is MISSING else found

    def compare(self, node: ast.Compare) -> Any:
        left, found = self.evaluate(node.left), MISSING
        for op, other in zip(node.ops, node.comparators, strict=True):
            right = self.evaluate(other)
            self.at(node)
            one = self.compared(op, left, right)
            if is_static(one) and not one:
                return False
            if not is_static(one):
                found = one if found is MISSING else self.apply("logical_and", found, one)
            left = right
        return True if found is MISSING else found

    def compared(self, op: ast.cmpop, left: Any, right: Any) -> Any:
        if isinstance(op, ast.Is | ast.IsNot):
            return (left is right) is isinstance(op, ast.Is)
        if isinstance(op, ast.In | ast.NotIn):
            if not (is_static(left) and is_static(right)):
                self.session.unsupported("`in` on what is known while the kernel runs", "compare with `==`")
            return (left in right) is isinstance(op, ast.In)
        record, plain = _COMPARED[type(op)]
        if is_static(left) and is_static(right):
            return self.static(lambda: plain(left, right))
        left, right = self.scalar(left), self.scalar(right)
        if all(isinstance(x, SizeHandle) or type(x) is int for x in (left, right)):
            apart = self.session.dim(left) - self.session.dim(right)
            if apart.is_const:
                return plain(apart.value, 0)
        return self.apply(record, left, right)

    def either(self, node: ast.IfExp) -> Any:
        test = self.evaluate(node.test)
        if is_static(test):
            return self.evaluate(node.body if test else node.orelse)
        yes, no = self.evaluate(node.body), self.evaluate(node.orelse)
        self.at(node)
        return self.session.do("where", self.scalar(test), self.scalar(yes), self.scalar(no))

    def subscript(self, node: ast.Subscript) -> Any:
        base, key = self.evaluate(node.value), self.key(node.slice)
        self.at(node)
        if isinstance(base, PoisonHandle):
            return base
        if isinstance(base, View):
            return sub_view(self.session, base, key)
        if isinstance(base, OnChip):
            return part(self.session, base, key)
        if not is_static(base) or not is_static(key):
            self.session.unsupported("an index that is known while the kernel runs into a Python object",
                                     "index a block or a parameter")  # fmt: skip
        return self.static(lambda: base[key])

    def key(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Slice):
            parts = (None if x is None else self.evaluate(x) for x in (node.lower, node.upper, node.step))
            return slice(*(self.scalar(x) for x in parts))
        if isinstance(node, ast.Tuple):
            return tuple(self.key(x) for x in node.elts)
        return self.scalar(self.evaluate(node))

    # -- calls

    def called(self, node: ast.Call) -> Any:
        callee = self.evaluate(node.func)
        args = [self.evaluate(x) for x in node.args]
        kwargs = {}
        for word in node.keywords:
            if word.arg is None:
                self.session.unsupported("`**` in a call", "name the arguments", self.source.span(node))
            kwargs[word.arg] = self.evaluate(word.value)
        self.at(node)
        return self.invoke(callee, args, kwargs, ast.unparse(node.func))

    def invoke(self, callee: Any, args: list[Any], kwargs: dict[str, Any], name: str) -> Any:
        session = self.session
        if isinstance(callee, PoisonHandle):
            return callee
        if isinstance(callee, TileOp):
            try:
                return callee.define(session, *callee.bind(session, args, kwargs))
            except Poisoned:
                return session.poison
        if isinstance(callee, Method):
            return self.method(callee, args, kwargs)
        if isinstance(callee, HeldMethod):
            return self.inline(callee.function, [callee.owner, *args], kwargs)
        if isinstance(callee, Namespace):
            session.refuse(TraceError, "TSR0404", f"`{name}` is no operation", "called here")
        if all(map(is_static, (*args, *kwargs.values()))) and not isinstance(callee, types.FunctionType):
            return self.static(lambda: self.outside(callee, name)(*args, **kwargs))
        if callee in (min, max) and args and not kwargs:
            extreme = dim_min if callee is min else dim_max
            dims = [session.dim(self.scalar(x)) for x in args]
            return session.given(extreme(*dims))
        if callee is range:
            raise Deferred("range", session.here)
        if callee is len and len(args) == 1 and isinstance(args[0], View | OnChip) and args[0].dims:
            return session.given(args[0].dims[0])
        if callee in (int, float, bool) and len(args) == 1:
            return session.do("cast", self.scalar(args[0]), session.table.to_dtype(callee) or callee)
        record = _NUMBERS.get(callee) if isinstance(callee, types.BuiltinFunctionType) else None
        if record is not None:
            return self.apply(record, *map(self.scalar, args), form="function")
        if isinstance(callee, types.FunctionType) and not is_machinery(callee.__code__.co_filename, _FOREIGN):
            return self.inline(callee, args, kwargs)
        return session.unsupported(f"a call of `{name}` on blocks", _other_way(session, name))

    def outside(self, callee: Any, name: str) -> Any:
        if callee in (print, input, open, exec, eval, setattr, globals, locals):
            self.session.unsupported(f"`{name}`", "a kernel reads and writes its parameters only")
        return callee

    def method(self, callee: Method, args: list[Any], kwargs: dict[str, Any]) -> Any:
        session = self.session
        if isinstance(callee.owner, Context):
            return of_expression(session, *args)
        record = session.table.by_method(callee.name)
        if record is None or callee.name.endswith("_"):
            session.refuse(TraceError, "TSR0404", f"a block has no method `{callee.name}`", "not known")
        return session.call(record, [callee.owner, *args], kwargs, "method", callee.name)

    def inline(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Evaluate the body of another function of the user."""
        raise NotImplementedError

    def static(self, compute: Callable[[], Any]) -> Any:
        """Run Python on what is known now; its errors are told at the place in the kernel."""
        try:
            return compute()
        except (TesseraError, Stopped):
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            self.session.refuse(TraceError, "TSR0406", f"the kernel cannot be read: {text}", "raised here")


def _near(base: Any, name: str) -> list[str]:
    if not isinstance(base, Namespace):
        return []
    close = base.near(name)
    return [f"there is {', '.join(f'`tile.{c}`' for c in close)}"] if close else []


def _other_way(session: KernelSession, name: str) -> str:
    last = name.rpartition(".")[2]
    return f"`tile.{last}` works on blocks" if last in session.settings["table"] else "use what `tile` has"


_EVAL: Mapping[type[ast.AST], str] = {
    ast.Constant: "constant", ast.Name: "name", ast.Tuple: "sequence",
    ast.List: "sequence", ast.Dict: "mapping", ast.JoinedStr: "text",
    ast.Attribute: "attribute", ast.BinOp: "binary", ast.UnaryOp: "unary",
    ast.BoolOp: "logic", ast.Compare: "compare", ast.IfExp: "either",
    ast.Subscript: "subscript", ast.Call: "called",
}  # fmt: skip
