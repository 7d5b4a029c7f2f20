"""Benchmarks: `python -m bench NAME [--json]` prints the machine, then each figure beside a named baseline."""
