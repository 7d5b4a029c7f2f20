<<<<<<< HEAD
"""Kernels in NumPy: the specification every other backend is held against."""
=======
"""The plain definitions of the kernels: short, slow, NumPy and the standard library alone."""
>>>>>>> source
