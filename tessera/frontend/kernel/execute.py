"""Statements of a kernel: assignments, loops and choices; static ones happen now, the others join the program."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any

from tessera.diag import ShapeError, TraceError
from tessera.frontend.handles import PoisonHandle, SizeHandle
from tessera.frontend.kernel.evaluate import Evaluator, is_static
from tessera.frontend.kernel.flow import STOP, choose, each, repeat
from tessera.frontend.kernel.memory import named
from tessera.frontend.kernel.session import Poisoned
from tessera.frontend.kernel.source import source_of
from tessera.frontend.kernel.table import TileOp
from tessera.frontend.kernel.values import Iteration, OnChip, Target, View
from tessera.frontend.kernel.windows import store, sub_view, update

#: Comparisons of sizes as needs: what kind, whether the sides change places, and what is added to the second.
_NEEDS: Mapping[type[ast.AST], tuple[str, bool, int]] = {
    ast.Eq: ("eq", False, 0), ast.GtE: ("ge", False, 0), ast.Gt: ("ge", False, 1), ast.LtE: ("ge", True, 0),
    ast.Lt: ("ge", True, 1),
}  # fmt: skip
#: Iterations of a Python loop, beyond which unrolling it is refused.
MOST_UNROLLED = 10_000
#: Functions that call each other inside a kernel.
DEEPEST_CALL = 16
_REFUSED: Mapping[type[ast.AST], tuple[str, str]] = {
    ast.With: ("`with`", "shared memory lives as long as the iteration that allocates it"),
    ast.AsyncWith: ("`async with`", "`tile.load_async` begins a copy"),
    ast.AsyncFor: ("`async for`", "`tile.range` is a loop"),
    ast.Try: ("`try`", "nothing is raised while a kernel runs; compare before"),
    ast.Raise: ("`raise`", "check sizes where the kernel is called"),
    ast.FunctionDef: ("a nested function", "define it outside; a kernel may call it"),
    ast.AsyncFunctionDef: ("a nested function", "define it outside; a kernel may call it"),
    ast.ClassDef: ("a class", "define it outside"),
    ast.Import: ("an import", "import at the top of the file"),
    ast.ImportFrom: ("an import", "import at the top of the file"),
    ast.Global: ("`global`", "write to parameters"),
    ast.Nonlocal: ("`nonlocal`", "write to parameters"),
    ast.Delete: ("`del`", "names end with the kernel"),
    ast.Match: ("`match`", "use `if`"),
    ast.TryStar: ("`try`", "nothing is raised while a kernel runs; compare before"),
}


class Walker(Evaluator):
    """Carries out the statements of one function."""

    depth = 0
    #: What `break` leaves here: `grid`, `loop`, `python` or nothing.
    inside = ""
    #: What a called function returns.
    result: Any = None

    def run(self, body: Sequence[ast.stmt]) -> bool:
        """Carry out statements in order; whether the last one jumped out of the body of the loop around."""
        for n, s in enumerate(body):
            if isinstance(s, ast.If):
                test = self.condition(s.test)
                rest = [] if not _jumps(s) else list(body[n + 1 :])
                if isinstance(test, PoisonHandle):
                    continue
                if not is_static(test):
                    choose(self, test, [*s.body, *rest], [*s.orelse, *rest], s)
                elif self.run([*(s.body if test else s.orelse), *rest]):
                    return True
                if rest or _jumps(s):
                    return True
                continue
            if isinstance(s, ast.Break | ast.Continue):
                self.jump(s)
                return True
            found = _RUN.get(type(s))
            if found is None:
                what, instead = _REFUSED.get(type(s), (f"a {type(s).__name__}", "see the kernel guide"))
                self.session.unsupported(what, instead, self.source.span(s))
            found(self, s)
        return False

    def jump(self, s: ast.Break | ast.Continue) -> None:
        if isinstance(s, ast.Continue):
            return
        if self.inside == "grid":
            self.session.unsupported("`break` in a grid", "the iterations of a grid are independent; use `tile.range`",
                                     self.source.span(s))  # fmt: skip
        self.env[STOP] = True

    def condition(self, node: ast.expr) -> Any:
        test = self.scalar(self.evaluate(node))
        self.at(node)
        if isinstance(test, OnChip) and test.dims:
            dims = ", ".join(map(str, test.dims))
            helps = ["`tile.where` chooses for each element; `tile.any` and `tile.all` give one bool"]
            self.session.refuse(TraceError, "TSR0401", f"a choice by a block [{dims}]", "no scalar", helps=helps)
        if is_static(test):
            return bool(test)
        if not isinstance(test, OnChip) or not test.dtype.is_bool:
            return self.apply("ne", test, 0)
        return test

    # -- assignments

    def assign(self, s: ast.Assign) -> None:
        value = self.evaluate(s.value)
        for target in s.targets:
            self.bind(target, value)

    def annotated(self, s: ast.AnnAssign) -> None:
        if s.value is not None:
            self.bind(s.target, self.evaluate(s.value))

    def bind(self, target: ast.expr, value: Any) -> None:
        """Give a target its value."""
        self.at(target)
        match target:
            case ast.Name(id=name):
                self.env[name] = self.settled(value, name)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                if isinstance(value, PoisonHandle):
                    value = [value] * len(items)
                if not isinstance(value, tuple | list) or len(value) != len(items):
                    text = f"{len(items)} names for what is no {len(items)} values"
                    self.session.refuse(ShapeError, "TSR0216", text, "unpacked here")
                for one, x in zip(items, value, strict=True):
                    self.bind(one, x)
            case ast.Subscript():
                self.write(target, value)
            case _:
                self.session.unsupported("an assignment to an attribute", "assign to a name or a part of a parameter")

    def settled(self, value: Any, name: str) -> Any:
        """What a name stands for: single elements are loaded, results get the name."""
        if isinstance(value, View):
            return named(value, name) if value.is_shared and value.name == "shared memory" else self.scalar(value)
        ops = self.session.builder.ops
        if isinstance(value, OnChip) and ops and value._value in ops[-1].results:
            self.session.rename(value._value, name)
        return value

    def write(self, target: ast.Subscript, value: Any) -> None:
        base, key = self.evaluate(target.value), self.key(target.slice)
        self.at(target)
        session = self.session
        if isinstance(base, PoisonHandle) or isinstance(value, PoisonHandle):
            return
        try:
            if isinstance(base, View):
                store(session, sub_view(session, base, key), value)
            elif isinstance(base, OnChip):
                self.rebind(base, update(session, base, key, value))
            else:
                what = f"an assignment to an item of a {type(base).__name__}"
                session.unsupported(what, "assign to a part of a parameter")
        except Poisoned:
            return

    def rebind(self, old: OnChip, new: Any) -> None:
        """Every name of a block that was written to stands for what it has become."""
        if isinstance(new, OnChip):
            new.mutable = old.mutable
        for name, x in list(self.env.items()):
            if x is old:
                self.env[name] = new

    def updated(self, s: ast.AugAssign) -> None:
        target = s.target
        if isinstance(target, ast.Subscript):
            base, key = self.evaluate(target.value), self.key(target.slice)
            self.at(s)
            old: Any = sub_view(self.session, base, key) if isinstance(base, View) else self.subscript(target)
        else:
            old = self.evaluate(target)
        value = self.evaluate(s.value)
        self.at(s)
        try:
            found = self.operate(type(s.op), old, value)
        except Poisoned:
            found = self.session.poison
        self.bind(target, found)

    # -- loops

    def loop(self, s: ast.For) -> None:
        if s.orelse:
            self.session.unsupported("`else` of a loop", "write it behind the loop", self.source.span(s))
        over = self.evaluate(s.iter)
        self.at(s.iter)
        if isinstance(over, PoisonHandle):
            return
        if isinstance(over, Iteration):
            if not isinstance(s.target, ast.Name):
                self.session.unsupported("a loop with several variables", "nest loops of one variable each")
            (each if over.parallel else repeat)(self, s, over)
        elif isinstance(over, View | OnChip):
            self.session.unsupported("a loop over a block", "loop over positions: `for i in tile.range(n)`")
        else:
            self.unrolled(s, over)

    def unrolled(self, s: ast.For, over: Iterable[Any]) -> None:
        items = self.static(lambda: list(over))
        if len(items) > MOST_UNROLLED:
            self.session.refuse(TraceError, "TSR0405", f"a Python loop of {len(items)} iterations", "unrolled",
                                helps=["`tile.range` is a loop that the program keeps"])  # fmt: skip
        outer, before, self.inside = self.env.get(STOP), self.inside, "python"
        for x in items:
            self.bind(s.target, x)
            self.env[STOP] = False
            self.run(s.body)
            stopped, self.env[STOP] = self.env[STOP], outer
            if not is_static(stopped):
                self.session.unsupported("`break` in an unrolled loop by what the kernel computes", "use `tile.range`",
                                         self.source.span(s))  # fmt: skip
            if stopped:
                break
        self.inside = before

    def while_(self, s: ast.While) -> None:
        count = 0
        outer, before, self.inside = self.env.get(STOP), self.inside, "python"
        self.env[STOP] = False
        while True:
            test = self.condition(s.test)
            if not is_static(test):
                self.session.unsupported("`while` on what the kernel computes", "use `tile.range` with `break`",
                                         self.source.span(s))  # fmt: skip
            if not test or self.env[STOP] is True:
                break
            self.run(s.body)
            count += 1
            if count > MOST_UNROLLED:
                self.session.refuse(TraceError, "TSR0405", "a Python loop that does not end", "unrolled")
        self.env[STOP] = outer
        self.inside = before

    # -- the rest

    def expression(self, s: ast.Expr) -> None:
        if isinstance(s.value, ast.Constant):
            return
        found = self.evaluate(s.value)
        if isinstance(found, Iteration):
            self.session.unsupported("a loop that is not looped over", "write `for i in …`", self.source.span(s))

    def asserted(self, s: ast.Assert) -> None:
        """What is asserted of sizes is checked when the kernel is called; of static values, now."""
        text = "" if s.msg is None else str(self.evaluate(s.msg))
        if self.required(s.test, text):
            return
        test = self.evaluate(s.test)
        self.at(s.test)
        if not is_static(test):
            self.session.unsupported("`assert` on what the kernel computes", "check it where the kernel is called")
        if not test:
            self.at(s)
            text = f"the kernel cannot be read: AssertionError: {text}"
            self.session.refuse(TraceError, "TSR0406", text, "raised here")

    def required(self, node: ast.expr, text: str) -> bool:
        """Whether a condition compares two sizes, which then becomes one of the program's needs."""
        if not isinstance(node, ast.Compare) or len(node.ops) != 1 or type(node.ops[0]) not in _NEEDS:
            return False
        sides = [self.scalar(self.evaluate(x)) for x in (node.left, node.comparators[0])]
        session = self.session
        if not any(isinstance(x, SizeHandle) for x in sides):
            return False
        if not all(isinstance(x, SizeHandle) or type(x) is int for x in sides):
            return False
        left, right = map(session.dim, sides)
        if not session.is_static(left) or not session.is_static(right):
            return False
        self.at(node)
        session.context.span = session.here
        kind, swapped, more = _NEEDS[type(node.ops[0])]
        left, right = (right, left + more) if swapped else (left, right + more)
        if not session.context.holds(kind, left, right, text or "asserted"):
            session.fault(ShapeError, "TSR0105", text or f"`{ast.unparse(node)}` does not hold")
        return True

    def returned(self, s: ast.Return) -> None:
        if s is not self.source.node.body[-1]:
            instead = "let the rest stand under an `if`"
            self.session.unsupported("a `return` before the end", instead, self.source.span(s))
        if s.value is None:
            return
        if self.depth == 0:
            self.session.unsupported("a returned value", "write results to parameters with `tile.store`",
                                     self.source.span(s))  # fmt: skip
        self.result = self.evaluate(s.value)

    def nothing(self, s: ast.stmt) -> None:
        return

    # -- calls

    def called(self, node: ast.Call) -> Any:
        """A call; one that gives an argument another value does so for every name of it."""
        callee = self.evaluate(node.func)
        if not isinstance(callee, TileOp) or callee.target is None or len(node.args) <= callee.target:
            return super().called(node)
        args = [self.target(x) if n == callee.target else self.evaluate(x) for n, x in enumerate(node.args)]
        kwargs = {w.arg: self.evaluate(w.value) for w in node.keywords if w.arg is not None}
        self.at(node)
        made = self.invoke(callee, args, kwargs, ast.unparse(node.func))
        target = args[callee.target]
        if isinstance(target, Target):
            self.rebind(target.owner, made)
        return made

    def target(self, node: ast.expr) -> Any:
        """An argument that is given another value: a view, or a block and the part of it that is meant."""
        if isinstance(node, ast.Subscript):
            base = self.evaluate(node.value)
            if isinstance(base, OnChip):
                return Target(base, self.key(node.slice))
            return self.evaluate(node)
        found = self.evaluate(node)
        return Target(found) if isinstance(found, OnChip) else found

    def inline(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        if self.depth >= DEEPEST_CALL:
            text = f"functions that call each other {DEEPEST_CALL} deep"
            self.session.refuse(TraceError, "TSR0410", text, "called here")
        here = self.session.here
        bound = self.static(lambda: _bound(function, args, kwargs))
        inner = Walker(self.session, source_of(function), bound)
        inner.depth = self.depth + 1
        inner.run(inner.source.node.body)
        self.session.here = here
        return inner.result


def _bound(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    found = signature(function).bind(*args, **kwargs)
    found.apply_defaults()
    return dict(found.arguments)


def _jumps(node: ast.If) -> bool:
    """Whether a choice may leave or continue the loop around it."""
    waiting: list[ast.stmt] = [*node.body, *node.orelse]
    while waiting:
        s = waiting.pop()
        if isinstance(s, ast.Break | ast.Continue):
            return True
        if isinstance(s, ast.If):
            waiting += [*s.body, *s.orelse]
    return False


_RUN: Mapping[type[ast.AST], Callable[[Walker, Any], None]] = {
    ast.Assign: Walker.assign, ast.AnnAssign: Walker.annotated, ast.AugAssign: Walker.updated, ast.For: Walker.loop,
    ast.While: Walker.while_, ast.Expr: Walker.expression, ast.Assert: Walker.asserted, ast.Return: Walker.returned,
    ast.Pass: Walker.nothing,
}  # fmt: skip
