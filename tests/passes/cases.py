"""Passes as text in and text out: each case is a function, the passes to run, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One case. ``fired`` says whether the last pass must have changed something."""

    name: str
    passes: tuple[str, ...]
    before: str
    after: str
    fired: bool = True


CASES = (
    Case(
        "multiplying by one goes",
        ("canonicalize",),
        """
fn f(x: f32[N]) -> f32[N] {
  %a = mul(x, 1.0) : f32[N]
  %b = div(%a, 1) : f32[N]
  %c = sub(%b, 0.0) : f32[N]
  return %c
}""",
        """
fn f(x: f32[N]) -> f32[N] {
  return x
}""",
    ),
    Case(
        "adding zero stays, since it turns -0.0 into 0.0",
        ("canonicalize",),
        """
fn f(x: f32[N]) -> f32[N] {
  %a = add(x, 0.0) : f32[N]
  return %a
}""",
        """
fn f(x: f32[N]) -> f32[N] {
  %a = add(x, 0.0) : f32[N]
  return %a
}""",
        fired=False,
    ),
    Case(
        "a rule does not fire when the type would change",
        ("canonicalize",),
        """
fn f(x: int64[N]) -> f32[N] {
  %c = cast(x, dtype=f32) : f32[N]
  %a = mul(%c, 1.0) : f32[N]
  return %a
}""",
        """
fn f(x: int64[N]) -> f32[N] {
  %c = cast(x, dtype=f32) : f32[N]
  return %c
}""",
    ),
    Case(
        "the square is a product",
        ("canonicalize",),
        """
fn f(x: f32[N]) -> f32[N] {
  %a = pow(x, 2.0) : f32[N]
  return %a
}""",
        """
fn f(x: f32[N]) -> f32[N] {
  %a = mul(x, x) : f32[N]
  return %a
}""",
    ),
    Case(
        "a view that changes nothing goes, one that moves elements stays",
        ("canonicalize",),
        """
fn f(x: f32[A, B]) -> f32[B, A] {
  %a = permute(x, dims=(0, 1)) : f32[A, B]
  %b = permute(%a, dims=(1, 0)) : f32[B, A]
  return %b
}""",
        """
fn f(x: f32[A, B]) -> f32[B, A] {
  %b = permute(x, dims=(1, 0)) : f32[B, A]
  return %b
}""",
    ),
    Case(
        "equal values are shared, through a chain",
        ("cse",),
        """
fn f(x: f32[N]) -> f32[N] {
  %a = exp(x) : f32[N]
  %b = exp(x) : f32[N]
  %c = neg(%a) : f32[N]
  %d = neg(%b) : f32[N]
  %e = add(%c, %d) : f32[N]
  return %e
}""",
        """
fn f(x: f32[N]) -> f32[N] {
  %a = exp(x) : f32[N]
  %c = neg(%a) : f32[N]
  %e = add(%c, %c) : f32[N]
  return %e
}""",
    ),
    Case(
        "1 and 1.0 and True are different constants",
        ("cse",),
        """
fn f(x: f32[N]) -> f32[N] {
  %a = add(x, 1) : f32[N]
  %b = add(x, 1.0) : f32[N]
  %c = mul(%a, %b) : f32[N]
  return %c
}""",
        """
fn f(x: f32[N]) -> f32[N] {
  %a = add(x, 1) : f32[N]
  %b = add(x, 1.0) : f32[N]
  %c = mul(%a, %b) : f32[N]
  return %c
}""",
        fired=False,
    ),
    Case(
        "what nobody reads is dropped, with what only it read",
        ("dce",),
        """
fn f(x: f32[N]) -> f32[N] {
  %a = exp(x) : f32[N]
  %b = log(%a) : f32[N]
  %c = neg(x) : f32[N]
  return %c
}""",
        """
fn f(x: f32[N]) -> f32[N] {
  %c = neg(x) : f32[N]
  return %c
}""",
    ),
    Case(
        "a chain is one map",
        ("fuse",),
        """
fn f(x: f32[N], y: f32[N]) -> f32[N] {
  %a = exp(x) : f32[N]
  %b = mul(%a, y) : f32[N]
  return %b
}""",
        """
fn f(x: f32[N], y: f32[N]) -> f32[N] {
  map(x, y) -> %b {
    %a = exp(x)     : f32[N]
    %b = mul(%a, y) : f32[N]
  }
  return %b
}""",
    ),
    Case(
        "a softmax is one row region",
        ("fuse",),
        """
fn f(x: f32[B, D]) -> f32[B, D] {
  %m = amax(x) over [D] keepdim : f32[B, 1]
  %s = sub(x, %m) : f32[B, D]
  %e = exp(%s) : f32[B, D]
  %t = sum(%e) over [D] keepdim : f32[B, 1]
  %y = div(%e, %t) : f32[B, D]
  return %y
}""",
        """
fn f(x: f32[B, D]) -> f32[B, D] {
  row(x) -> %y {
    %m = amax(x) over [D] keepdim : f32[B, 1]
    %s = sub(x, %m)               : f32[B, D]
    %e = exp(%s)                  : f32[B, D]
    %t = sum(%e) over [D] keepdim : f32[B, 1]
    %y = div(%e, %t)              : f32[B, D]
  }
  return %y
}""",
    ),
    Case(
        "a product of matrices takes in what stands after it",
        ("fuse",),
        """
fn f(x: f32[A, K], w: f32[K, N], b: f32[N]) -> f32[A, N] {
  %h = exp(x) : f32[A, K]
  %p = matmul(%h, w) : f32[A, N]
  %y = add(%p, b) : f32[A, N]
  return %y
}""",
        """
fn f(x: f32[A, K], w: f32[K, N], b: f32[N]) -> f32[A, N] {
  map(x) -> %h {
    %h = exp(x) : f32[A, K]
  }
  stream(%h, w, b, axes=(0,)) -> %y {
    %p = matmul(%h, w) : f32[A, N]
    %y = add(%p, b)    : f32[A, N]
  }
  return %y
}""",
    ),
    Case(
        "independent maps over one input become one",
        ("fuse",),
        """
fn f(x: f32[N]) -> (f32[N], f32[N]) {
  %a = exp(x) : f32[N]
  %b = neg(x) : f32[N]
  return %a, %b
}""",
        """
fn f(x: f32[N]) -> (f32[N], f32[N]) {
  map(x) -> %a, %b {
    %a = exp(x) : f32[N]
    %b = neg(x) : f32[N]
  }
  return %a, %b
}""",
    ),
    Case(
        "what a product reads where it lies is made before it",
        ("fuse",),
        """
fn f(x: f32[A, A]) -> f32[A, A] {
  %a = exp(x) : f32[A, A]
  %p = matmul(%a, %a) : f32[A, A]
  %y = add(%a, %p) : f32[A, A]
  return %y
}""",
        """
fn f(x: f32[A, A]) -> f32[A, A] {
  map(x) -> %a {
    %a = exp(x) : f32[A, A]
  }
  stream(%a, axes=(0,)) -> %y {
    %p = matmul(%a, %a) : f32[A, A]
    %y = add(%a, %p)    : f32[A, A]
  }
  return %y
}""",
    ),
    Case(
        "joining two maps may not close a circle through a third region",
        ("fuse",),
        """
fn f(x: f32[A, A]) -> f32[A, A] {
  %a = exp(x) : f32[A, A]
  %p, %q = sort(%a, dim=0, descending=false) : f32[A, A], int64[A, A]
  %y = add(%a, %p) : f32[A, A]
  return %y
}""",
        """
fn f(x: f32[A, A]) -> f32[A, A] {
  map(x) -> %a {
    %a = exp(x) : f32[A, A]
  }
  extern(%a) -> %p {
    %p, %q = sort(%a, dim=0, descending=false) : f32[A, A], int64[A, A]
  }
  map(%a, %p) -> %y {
    %y = add(%a, %p) : f32[A, A]
  }
  return %y
}""",
    ),
    Case(
        "a step is simplified by the same rules",
        ("canonicalize",),
        """
fn f(x: f32[S, D], w: f32[D]) -> f32[D] {
  %one = mul(w, 1.0) : f32[D]
  %t = scan(%one, x, %one, w, carries=1, dim=0, reverse=false) : f32[D] {
    ^(c: f32[D], r: f32[D])
    %a = div(r, 1.0) : f32[D]
    %b = mul(%a, %one) : f32[D]
    %d = add(c, %b) : f32[D]
    %e = add(%d, w) : f32[D]
    yield %e
  }
  return %t
}""",
        """
fn f(x: f32[S, D], w: f32[D]) -> f32[D] {
  %t = scan(w, x, w, carries=1, dim=0, reverse=false) : f32[D] {
    ^(c: f32[D], r: f32[D])
    %b = mul(r, w) : f32[D]
    %d = add(c, %b) : f32[D]
    %e = add(%d, w) : f32[D]
    yield %e
  }
  return %t
}""",
    ),
    Case(
        "equal values of a step are shared, those of two steps are not",
        ("cse",),
        """
fn f(x: f32[S], w: f32[]) -> (f32[], f32[S], f32[]) {
  %u = exp(w) : f32[]
  %v = exp(w) : f32[]
  %t, %y = scan(%u, x, w, %v, carries=1, dim=0, reverse=false) : f32[], f32[S] {
    ^(c: f32[], r: f32[])
    %a = exp(w) : f32[]
    %b = exp(w) : f32[]
    %d = mul(%a, %b) : f32[]
    %e = mul(%d, %v) : f32[]
    yield %e, r
  }
  %s = scan(%v, x, w, carries=1, dim=0, reverse=false) : f32[] {
    ^(c2: f32[], r2: f32[])
    %g = exp(w) : f32[]
    yield %g
  }
  return %t, %y, %s
}""",
        """
fn f(x: f32[S], w: f32[]) -> (f32[], f32[S], f32[]) {
  %u = exp(w) : f32[]
  %t, %y = scan(%u, x, w, %u, carries=1, dim=0, reverse=false) : f32[], f32[S] {
    ^(c: f32[], r: f32[])
    %a = exp(w) : f32[]
    %d = mul(%a, %a) : f32[]
    %e = mul(%d, %u) : f32[]
    yield %e, r
  }
  %s = scan(%u, x, w, carries=1, dim=0, reverse=false) : f32[] {
    ^(c2: f32[], r2: f32[])
    %g = exp(w) : f32[]
    yield %g
  }
  return %t, %y, %s
}""",
    ),
    Case(
        "carries, slices and stacks that nobody reads go, and what only they need",
        ("dce",),
        """
fn f(x: f32[S, D], y: f32[S], w: f32[D]) -> (f32[D], f32[S, D]) {
  %k = exp(w) : f32[D]
  %z = neg(w) : f32[D]
  %a, %n, %m, %p, %q = scan(w, %z, w, x, y, %k, carries=3, dim=0, reverse=false)
      : f32[D], f32[D], f32[D], f32[S], f32[S, D] {
    ^(c: f32[D], d: f32[D], e: f32[D], r: f32[D], s: f32[])
    %c2 = add(c, e) : f32[D]
    %d2 = mul(d, %k) : f32[D]
    %e2 = add(e, r) : f32[D]
    %s2 = exp(s) : f32[]
    yield %c2, %d2, %e2, %s2, r
  }
  return %a, %q
}""",
        """
fn f(x: f32[S, D], y: f32[S], w: f32[D]) -> (f32[D], f32[S, D]) {
  %a, %m, %q = scan(w, w, x, carries=2, dim=0, reverse=false) : f32[D], f32[D], f32[S, D] {
    ^(c: f32[D], e: f32[D], r: f32[D])
    %c2 = add(c, e) : f32[D]
    %e2 = add(e, r) : f32[D]
    yield %c2, %e2, r
  }
  return %a, %q
}""",
    ),
    Case(
        "one scanned tensor stays, to say how many steps there are; a scan in a step is cut as well",
        ("dce",),
        """
fn f(x: f32[S, D], y: f32[S], w: f32[D]) -> f32[D] {
  %a = scan(w, y, x, x, carries=1, dim=0, reverse=false) : f32[D] {
    ^(c: f32[D], s: f32[], r: f32[D])
    %t, %u = scan(c, x, carries=1, dim=0, reverse=false) : f32[D], f32[S, D] {
      ^(g: f32[D], h: f32[D])
      %i = mul(g, 0.5) : f32[D]
      %j = exp(h) : f32[D]
      yield %i, %j
    }
    yield %t
  }
  return %a
}""",
        """
fn f(x: f32[S, D], y: f32[S], w: f32[D]) -> f32[D] {
  %a = scan(w, y, x, carries=1, dim=0, reverse=false) : f32[D] {
    ^(c: f32[D], s: f32[])
    %t = scan(c, x, carries=1, dim=0, reverse=false) : f32[D] {
      ^(g: f32[D], h: f32[D])
      %i = mul(g, 0.5) : f32[D]
      yield %i
    }
    yield %t
  }
  return %a
}""",
    ),
    Case(
        "the steps of a scan are a region",
        ("fuse",),
        """
fn f(x: f32[S, D], w: f32[D]) -> f32[S, D] {
  %e = exp(x) : f32[S, D]
  %k = exp(w) : f32[D]
  %t, %y = scan(w, %e, %k, carries=1, dim=0, reverse=false) : f32[D], f32[S, D] {
    ^(c: f32[D], r: f32[D])
    %m = mul(c, %k) : f32[D]
    %n = add(%m, r) : f32[D]
    yield %n, %n
  }
  %z = add(%y, %t) : f32[S, D]
  %o = mul(%z, %e) : f32[S, D]
  return %o
}""",
        """
fn f(x: f32[S, D], w: f32[D]) -> f32[S, D] {
  map(x) -> %e {
    %e = exp(x) : f32[S, D]
  }
  map(w) -> %k {
    %k = exp(w) : f32[D]
  }
  recurrence(w, %e, %k) -> %t, %y {
    %t, %y = scan(w, %e, %k, carries=1, dim=0, reverse=false) : f32[D], f32[S, D] {
      ^(c: f32[D], r: f32[D])
      %m = mul(c, %k) : f32[D]
      %n = add(%m, r) : f32[D]
      yield %n, %n
    }
  }
  map(%y, %t, %e) -> %o {
    %z = add(%y, %t) : f32[S, D]
    %o = mul(%z, %e) : f32[S, D]
  }
  return %o
}""",
    ),
)
