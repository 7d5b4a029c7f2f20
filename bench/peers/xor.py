"""XOR of two versions of the weights, shuffled and compressed by blosc2's zstd on one thread."""


def prepare(n, rate, direction, seed=3):
    import blosc2
    import numpy as np

    blosc2.set_nthreads(1)
    draw = np.random.default_rng(seed)
    base = draw.standard_normal(n, dtype=np.float32) * np.float32(0.03)
    first = draw.standard_normal(n, dtype=np.float32)
    second = np.abs(draw.standard_normal(n, dtype=np.float32)) + np.float32(0.5)
    new = base - np.float32(rate) * np.float32(0.3) * first / second
    old, now, out = base.view(np.uint32), new.view(np.uint32), np.empty(n, np.uint32)
    settings = {"typesize": 4, "codec": blosc2.Codec.ZSTD, "clevel": 1, "filter": blosc2.Filter.SHUFFLE}

    def encode():
        np.bitwise_xor(old, now, out=out)
        return blosc2.compress(out, **settings)

    packed = encode()

    def decode():
        difference = np.frombuffer(blosc2.decompress(packed), np.uint32)
        return np.bitwise_xor(old, difference, out=out)

    assert np.array_equal(decode(), now)
    if direction == "encode":
        return lambda: {"bytes": len(encode())}
    return lambda: decode() is None or {"bytes": len(packed)}
