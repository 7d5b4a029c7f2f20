"""Images: written in pieces as they would be whole, brought forward, and read without a copy of their own."""
from __future__ import annotations

import numpy as np
import pytest

from engine.errors import FrameError
from engine.models.linear import Linear
from engine.store.image import Image, load_image
from engine.store.record import Change, Record
from engine.survive.parts import assembled
from engine.types import Block, whole_rows


def shard(rng, rows=30_011):
    whole = rng.standard_normal((rows, 4)).astype(np.float32)
    return {"a": Block(whole[:, :3]), "b": Block(rng.standard_normal(7)), "c": Block(np.zeros((0, 5), np.int16)),
            "d": Block(rng.integers(0, 99, (3, 70_001)).astype(np.uint8)), "e": Block(whole[:, ::2]),
            "f": Block(np.float64(3.0))}


def test_blocks_of_any_layout_come_back_and_a_write_beside_hurts_no_reader(tmp_path):
    state = shard(np.random.default_rng(1))
    image = Image(tmp_path / "image-0")
    image.write(state, Record(4, 4, (), {"clock": [4, 9]}))
    found, head = load_image(image.path)
    assert head.version == 4 and head.meta == {"clock": [4, 9]}
    assert all(np.array_equal(found[path].data, block.data) for path, block in state.items())
    image.write({"a": Block(np.ones((5, 3), np.float32))}, Record(5, 5))  # smaller, at the same place
    assert np.array_equal(found["a"].data, state["a"].data)
    found["a"].data[:] = 7  # nor does a reader hurt the file
    assert (load_image(image.path)[0]["a"].data == 1).all()
    image.close()


def test_every_chunk_of_a_row_wider_than_a_chunk_is_summed_again(tmp_path):
    rng = np.random.default_rng(2)
    data = rng.standard_normal((3, 50_000))  # 400,000 bytes a row: seven chunks
    image = Image(tmp_path / "image-0")
    image.write({"w": Block(data)}, Record(1, 1))
    data[1] = rng.standard_normal(50_000)
    assert image.advance([Record(2, 1, (Change("w", np.array([1], np.uint32), data[1:2], 3),))], bytes(16))
    assert np.array_equal(load_image(image.path)[0]["w"].data, data)
    with open(image.path, "r+b") as file:
        file.seek(image._body + 600_000)
        byte = file.read(1)[0]
        file.seek(image._body + 600_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(FrameError, match="chunk 9 of"):
        load_image(image.path)
    image.close()


def test_shards_are_put_straight_into_the_arrays_of_a_model():
    rng, made, model = np.random.default_rng(3), Linear(1000), Linear(1000)
    made.view()["model/linear"].data[...] = rng.standard_normal((1001, 3))
    state = made.state()
    cut = [{path: Block(block.data[:400] if len(block.data) > 400 else block.data[: len(block.data) * (at == 0)], block.columns)
            for path, block in state.items()} for at in (0, 1)]
    cut[1]["model/linear"] = Block(state["model/linear"].data[400:])
    parts = [(at, part, {"shapes": {}, "clock": [1, 1], "label": 0}) for at, part in enumerate(cut)]
    whole, _ = assembled(parts, 2, model.room())
    assert np.shares_memory(whole["model/linear"].data, model.view()["model/linear"].data)
    model.load(whole)
    assert all(np.array_equal(block.data, state[path].data) for path, block in model.state().items())
    plain, _ = assembled(parts, 2, {})
    other = Linear(1000)
    other.load(plain)
    assert np.array_equal(other.state()["model/linear"].data, state["model/linear"].data)
    assert whole_rows(model.view()["model/linear"].data).dtype.itemsize == 12
