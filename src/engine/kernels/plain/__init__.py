"""The NumPy definition of every kernel: what the fast ones must equal."""
