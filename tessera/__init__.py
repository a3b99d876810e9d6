"""Tessera: tensor code with named dimensions, proved before any data and compiled to few kernels."""
