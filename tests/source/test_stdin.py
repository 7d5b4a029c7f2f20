"""Stdin: rank 0 finds the plan at its head and loses nothing; a rank that has the plan never reads it."""

import subprocess
import sys

PROGRAM = """
import sys
from engine.source.read import open_source
source = open_source("-", piece_bytes=700)
other = open_source("-", plan=source.plan)
assert source.streamed(0) and [source.reader(p, 4) for p in range(4)] == [0] * 4 and other.schema == source.schema
rows = [b for b in source.read(0)]
print(sum(map(len, rows)), int(sum(b.x[:, 0].astype("f8").sum() for b in rows)), len(rows) > 3)
"""


def test_a_pipe_is_read_whole() -> None:
    count = 200000  # more than the sample at the head
    text = "a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(count))
    assert len(text) > 1 << 20
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.stdout.split() == [str(count), str(count * (count - 1) // 2), "True"], found.stderr


def test_an_empty_pipe_is_a_data_error() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], input="", capture_output=True, text=True, timeout=60, check=False
    )
    assert "DataError: expected rows, found an empty file" in found.stderr
