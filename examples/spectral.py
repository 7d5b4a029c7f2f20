"""A Kuramoto-Sivashinsky solver, spectral, an ensemble member a rank, learns its own equation while it runs.

    engine run is not needed: it is the solver's program.   mpiexec -n 2 python spectral.py [steps] [wait|newest]

Rows are grid points; features are terms that could drive u_t; the solver goes on while a thread learns. Prints: step, error of
the prediction of u_t, its size (root mean squares over ranks); at the end the equation found, u_t = - u u_x - u_xx - u_xxxx.
"""
import sys

import numpy as np
from mpi4py import MPI

from engine import Session

GRID, LENGTH, DT, SUBSTEPS = 256, 32 * np.pi, 0.02, 5
TERMS = ("u", "u_x", "u_xx", "u_xxxx", "u u_x", "u u", "u u u")
K = 2 * np.pi * np.fft.rfftfreq(GRID, LENGTH / GRID)
DECAY, MASK = np.exp(DT * (K**2 - K**4)), 2 / 3 * K.max() > K


def space(v, derivative=0):
    """The field, or a derivative of it, at the grid points."""
    return np.fft.irfft((1j * K) ** derivative * v, GRID)


def advect(v):
    return -0.5j * K * MASK * np.fft.rfft(space(v) ** 2)


def step(v):
    """Heun's method with an integrating factor."""
    first = advect(v)
    guess = DECAY * (v + DT * first)
    return DECAY * v + DT / 2 * (DECAY * first + advect(guess))


def terms(v):
    u, ux, uxx, uxxxx = (space(v, p) for p in (0, 1, 2, 4))
    return np.stack([u, ux, uxx, uxxxx, u * ux, u * u, u * u * u], axis=1)


def main(steps=400, full="wait"):
    world = MPI.COMM_WORLD
    v = np.fft.rfft(np.random.default_rng(world.rank).normal(0, 0.5, GRID)) * (K < 2.5)
    for _ in range(4000):  # onto the attractor
        v = step(v)
    settings = {"model.learner": "ftrl", "exchange.every": 256, "loop.threads": 1}
    with Session(world, width=len(TERMS), task="regression", **settings) as session, session.stream(4, full) as stream:
        for at in range(steps):
            x, before = terms(v), space(v)
            guess = session.predict(x)
            for _ in range(SUBSTEPS):
                v = step(v)
            y = (space(v) - before) / (DT * SUBSTEPS)
            stream.put(x, y)
            error = world.allreduce(np.array([np.sum((guess - y) ** 2), np.sum(y**2)]))
            if world.rank == 0:
                print(at, *np.sqrt(error / (GRID * world.size)).round(9))
        stream.wait()
        zero, one = session.predict(np.zeros((1, len(TERMS)))), session.predict(np.eye(len(TERMS)))
        if world.rank == 0:
            found = " ".join(f"{w:+.2f} {name}" for w, name in zip(one - zero, TERMS, strict=True) if abs(w) > 0.05)
            print(f"u_t = {found}", file=sys.stderr)


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, str), sys.argv[1:], strict=False)))
