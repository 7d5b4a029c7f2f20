"""The plain definitions of the kernels: short, slow, NumPy and the standard library alone."""
