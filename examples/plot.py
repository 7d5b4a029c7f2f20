"""Error against time: `python plot.py out.svg title name=lines.txt ...`, lines of step, error, error of no change."""
import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot


def main(out, title, *runs):
    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for run in runs:
        name, _, path = run.partition("=")
        step, error, still = np.loadtxt(path).T
        axes.semilogy(step, error / still, label=name, lw=1)
    axes.axhline(1, color="grey", lw=0.8, ls=":")
    axes.set(title=title, xlabel="step of the solver", ylabel="error / error of no change")
    axes.legend()
    axes.grid(alpha=0.3, which="both", lw=0.4)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
