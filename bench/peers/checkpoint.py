"""Checkpoints of others: one float32 array written and synced, or read back, as torch, NumPy or safetensors do it."""
import os


def prepare(kind, rows, path, read):
    """`kind`: torch, savez or safetensors; a file at `path` of `rows` rows of four."""
    import numpy as np

    data = np.random.default_rng(2).standard_normal((rows, 4), np.float32)
    save, load = FORMATS[kind](np, data, path)

    def write():
        save()
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    write()
    if not read:
        return write
    del data

    def back():
        found = load()
        return float(found[0, 0])

    return back


def torch(np, data, path):
    import torch

    tensor = torch.from_numpy(data)
    return lambda: torch.save({"m": tensor}, path), lambda: torch.load(path)["m"]


def savez(np, data, path):
    def save():
        with open(path, "wb") as file:
            np.savez(file, m=data)

    return save, lambda: np.load(path)["m"]


def safetensors(np, data, path):
    import safetensors.numpy

    return lambda: safetensors.numpy.save_file({"m": data}, path), lambda: safetensors.numpy.load_file(path)["m"]


FORMATS = {"torch": torch, "savez": savez, "safetensors": safetensors}
