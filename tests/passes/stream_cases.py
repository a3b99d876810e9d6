"""Fusing around a contraction as text in and text out."""

from __future__ import annotations

from tests.passes.cases import Case

CASES = (
    Case(
        "attention is one region, its division behind the sum",
        ("fuse",),
        """
fn f(q: f32[S, D], k: f32[T, D], v: f32[T, E]) -> f32[S, E] {
  %kt = permute(k, dims=(1, 0)) : f32[D, T]
  %s = matmul(q, %kt, accumulate_dtype=none) : f32[S, T]
  %m = amax(%s) over [T] keepdim : f32[S, 1]
  %d = sub(%s, %m) : f32[S, T]
  %p = exp(%d) : f32[S, T]
  %l = sum(%p) over [T] keepdim : f32[S, 1]
  %w = div(%p, %l) : f32[S, T]
  %o = matmul(%w, v, accumulate_dtype=none) : f32[S, E]
  return %o
}""",
        """
fn f(q: f32[S, D], k: f32[T, D], v: f32[T, E]) -> f32[S, E] {
  stream(k, q, v, axes=(1,)) -> %o {
    %kt_r1 = permute(k, dims=(1, 0)) : f32[D, T]
    %s = matmul(q, %kt_r1, accumulate_dtype=none) : f32[S, T]
    %m = amax(%s) over [T] keepdim : f32[S, 1]
    %d = sub(%s, %m) : f32[S, T]
    %p = exp(%d) : f32[S, T]
    %l = sum(%p) over [T] keepdim : f32[S, 1]
    %o_h1 = matmul(%p, v, accumulate_dtype=none) : f32[S, E]
    %o_h1_h1 = gt(`T`, 0) : bool[]
    %w_h1 = div(%o_h1, %l) : f32[S, E]
    %o = where(%o_h1_h1, %w_h1, %o_h1) : f32[S, E]
  }
  return %o
}""",
    ),
    Case(
        "a mask that is made for the scores goes with them",
        ("fuse",),
        """
fn f(q: f32[S, D], k: f32[D, T]) -> f32[S] {
  %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
  %i = iota(0, 1, size=`T`, dtype=int64) : int64[T]
  %c = lt(%i, 5) : bool[T]
  %a = where(%c, %s, -inf) : f32[S, T]
  %m = amax(%a) over [T] : f32[S]
  return %m
}""",
        """
fn f(q: f32[S, D], k: f32[D, T]) -> f32[S] {
  stream(q, k, axes=(1,)) -> %m {
    %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
    %i_r1 = iota(0, 1, size=`T`, dtype=int64) : int64[T]
    %c = lt(%i_r1, 5) : bool[T]
    %a = where(%c, %s, -inf) : f32[S, T]
    %m = amax(%a) over [T] : f32[S]
  }
  return %m
}""",
    ),
    Case(
        "the axis that is folded is swept, the first as well as the last",
        ("fuse",),
        """
fn f(q: f32[S, D], k: f32[D, T]) -> f32[T] {
  %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
  %e = exp(%s) : f32[S, T]
  %m = sum(%e) over [S] : f32[T]
  return %m
}""",
        """
fn f(q: f32[S, D], k: f32[D, T]) -> f32[T] {
  stream(q, k, axes=(0,)) -> %m {
    %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
    %e = exp(%s) : f32[S, T]
    %m = sum(%e) over [S] : f32[T]
  }
  return %m
}""",
    ),
    Case(
        "two results of one sweep",
        ("fuse",),
        """
fn f(q: f32[S, D], k: f32[D, T]) -> (f32[S], f32[S]) {
  %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
  %a = amax(%s) over [T] : f32[S]
  %b = sum(%s) over [T] : f32[S]
  return %a, %b
}""",
        """
fn f(q: f32[S, D], k: f32[D, T]) -> (f32[S], f32[S]) {
  stream(q, k, axes=(1,)) -> %a, %b {
    %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
    %a = amax(%s) over [T] : f32[S]
    %b = sum(%s) over [T] : f32[S]
  }
  return %a, %b
}""",
    ),
)

#: Bodies for ``s``, a contraction of f32[S, T], whose folds cannot be one stream; ``%o`` is given back.
APART = {
    "a fold of what follows a mean": """
  %t = sum(%s) over [T] keepdim : f32[S, 1]
  %d = sub(%s, %t) : f32[S, T]
  %e = exp(%d) : f32[S, T]
  %o = sum(%e) over [T] : f32[S]""",
    "a maximum of what is shifted": """
  %t = amax(%s) over [T] keepdim : f32[S, 1]
  %d = sub(%s, %t) : f32[S, T]
  %o = amax(%d) over [T] : f32[S]""",
    "layer norm": """
  %t = sum(%s) over [T] keepdim : f32[S, 1]
  %d = sub(%s, %t) : f32[S, T]
  %e = mul(%d, %d) : f32[S, T]
  %o = sum(%e) over [T] : f32[S]""",
    "a running sum": """
  %r = cumsum(%s, dim=1) : f32[S, T]
  %o = amax(%r) over [T] : f32[S]""",
}
