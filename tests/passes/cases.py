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
)
