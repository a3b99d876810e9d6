"""Kernels: from the source of a Python function to a block program, without running it."""
