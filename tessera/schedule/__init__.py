"""Regions to kernels: nests of loops over named axes, in the tile dialect."""
