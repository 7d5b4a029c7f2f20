"""One array operation of another library on one thread: torch's top-k, piquant's quantisation, blosc2, zfec, xxhash."""


def topk(n, k, seed):
    """`e += g`, abs, torch.topk over n float32: what error feedback with exact top-k costs without fusing."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    g, e = torch.from_numpy(heavy(np, n, seed)), torch.zeros(n)

    def run():
        e.add_(g)
        _, at = torch.topk(e.abs(), k, sorted=False)
        values = e[at]
        e[at] = 0
        return float(values[0])

    return run


def piquant_int8(n, seed, fit):
    """piquant's nearest rounding of float32 to uint8 on one thread; with `fit` its scale pass is part of the round."""
    import importlib.util

    import numpy as np

    if importlib.util.find_spec("piquant") is None:
        raise ModuleNotFoundError("pypiquant", name="pypiquant")
    import piquant

    context, kind = piquant.Context(1), piquant.DataType
    g, out = heavy(np, n, seed), np.empty(n, np.uint8)
    source, target = g.ctypes.data, out.ctypes.data
    found = context.compute_quant_params_ptr_float32(source, kind.UINT8, n)

    def run(held=(g, out)):
        scale, zero = context.compute_quant_params_ptr_float32(source, kind.UINT8, n) if fit else found
        context.quantize_ptr(source, kind.F32, target, kind.UINT8, n, scale, zero, piquant.RoundMode.NEAREST)
        return {"scale": scale, "first": int(held[1][0])}

    return run


def zfec_encode(size, data, parity):
    """Reed-Solomon parity of `data` blocks of `size` bytes."""
    import os

    import zfec

    coder = zfec.Encoder(data, data + parity)
    blocks = [os.urandom(size) for _ in range(data)]
    return lambda: len(coder.encode(blocks, list(range(data, data + parity))))


def xxh3(size):
    """64-bit XXH3 of `size` bytes."""
    import os

    import xxhash

    held = os.urandom(size)
    return lambda: xxhash.xxh3_64_intdigest(held)


def heavy(np, n, seed):
    """Heavy-tailed float32 noise: a gaussian cubed, as the bench itself makes it."""
    x = np.random.default_rng(seed).standard_normal(n, dtype=np.float32)
    return x * x * x * np.float32(1e-3)


OPERATIONS = {"topk": topk, "piquant_int8": piquant_int8, "zfec_encode": zfec_encode, "xxh3": xxh3}


def prepare(operation, **options):
    return OPERATIONS[operation](**options)
