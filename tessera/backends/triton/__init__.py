"""The Triton backend: tile functions to readable kernels for NVIDIA and AMD GPUs. Importing it does not
import Triton.
"""
