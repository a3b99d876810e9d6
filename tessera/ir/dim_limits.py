"""Limits of dimension expressions: they bound the time and memory that any text can cost."""

#: Limits that keep an expression's cost bounded; beyond them building one is a ShapeError, code TSR0102.
MAX_NAME = 64
MAX_TERMS = 2_000
MAX_DEPTH = 64
MAX_ATOM_TEXT = 4_000
MAX_DEGREE = 256
MAX_BITS = 4_096

#: How many results of each operation are kept: tracing asks for the same few sums and products over and over.
CACHED = 16_384

#: Of the text form.
MAX_TEXT = 1_000
MAX_NESTING = 64
MAX_INT = 2**63
