"""Benchmarks: `python -m bench NAME [--json]` prints the machine, then our figure beside each named baseline of the same run."""
