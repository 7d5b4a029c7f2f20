"""Kernels: arrays in, `out=` array; no object, no MPI, no allocation; every backend gives the bytes `plain` defines."""
