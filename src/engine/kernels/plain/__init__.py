"""Kernels in NumPy: the specification every other backend is held against."""
