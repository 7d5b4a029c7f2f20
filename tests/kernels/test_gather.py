import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import _native

KINDS = ["float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.lists(st.integers(0, 6), max_size=8), st.integers(1, 3))
def test_any_layout_becomes_float32_in_order(seed, kind, shape, step):
    """Against NumPy's copy: steps, turned axes, reversed ones, and rounding of what float32 cannot hold."""
    rng = np.random.default_rng(seed)
    shape = shape[: 8 if np.prod(shape) < 20_000 else 4]
    whole = rng.integers(-(2**62), 2**62, [n * step for n in shape]).astype(kind)
    if kind.startswith("float"):
        whole = (rng.normal(size=whole.shape) * 10.0 ** rng.integers(-45, 30)).astype(kind)
    view = whole[tuple(slice(None, None, step if rng.random() < 0.5 else -step) for _ in shape)]
    view = np.asarray(view).transpose(rng.permutation(view.ndim))
    out = np.empty(view.shape, np.float32)
    _native.gather(view, out)
    assert out.tobytes() == view.astype(np.float32).tobytes()


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_windows_of_a_field(reach):
    field = np.random.default_rng(0).normal(size=(23, 17))
    view = np.lib.stride_tricks.sliding_window_view(field, (2 * reach + 1,) * 2)
    out = np.empty((view.shape[0] * view.shape[1], (2 * reach + 1) ** 2), np.float32)
    _native.gather(view, out)
    assert (out == view.reshape(out.shape).astype(np.float32)).all()


def test_what_does_not_fit_is_refused():
    for view, out in ((np.zeros(3), np.zeros(4, np.float32)), (np.zeros(3, complex), np.zeros(3, np.float32)),
                      (np.zeros(3, ">f8"), np.zeros(3, np.float32)), (np.zeros(3, bool), np.zeros(3, np.float32))):
        with pytest.raises(ValueError, match="gather"):
            _native.gather(view, out)
    with pytest.raises(TypeError):
        _native.gather(np.zeros(3), np.zeros(3))
