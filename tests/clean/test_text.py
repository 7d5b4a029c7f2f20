"""N-grams of text: the kernel is its plain definition, and every way in gives the same rows."""
import csv
import io

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine import job as jobs
from engine.clean.pipeline import open_pipeline
from engine.clean.text import grams as reading
from engine.clean.text import tokens
from engine.comm.local import Alone
from engine.config import resolve
from engine.errors import ConfigError
from engine.kernels import _native
from engine.kernels.plain.parse import mix, text_hash
from engine.kernels.plain.text import BETWEEN, CASED, WEIGHTS, grams, lowered, words
from engine.source.read import open_source

BROKEN = [b"\xff", b"\xc0\x80", b"\xe4\xb8", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xf0\x9f\x99", b"\x80", b"\0",
          b"\xf4\x90\x80\x80"]
LETTERS = "aBz9_éÉßÿŸİıĸŉſĹĺΆΏΩЖж中日。 \t,'\u2019\ufeff🙂\U00010400×÷ªµ"
orders = st.tuples(st.sampled_from([(0, 0), (1, 1), (1, 2), (2, 3), (1, 8)]), st.sampled_from([(0, 0), (1, 1), (3, 5), (2, 8)]))
text = st.lists(st.one_of(st.sampled_from(BROKEN), st.text(LETTERS, max_size=8).map(str.encode),
                          st.text(max_size=4).map(lambda t: t.encode("utf-8", "surrogatepass"))), max_size=8).map(b"".join)


def rows(source):
    batches = [batch for piece in range(source.pieces) for batch in source.read(piece)]
    return [(float(y), dict(zip(b.keys[lo:hi].tolist(), b.values[lo:hi].tolist(), strict=True)))
            for b in batches for y, lo, hi in zip(b.y, b.indptr[:-1], b.indptr[1:], strict=True)]


@settings(deadline=None, max_examples=300)
@given(st.lists(text, min_size=1, max_size=4), orders, st.sampled_from(WEIGHTS), st.sampled_from([2, 8, 20, 30]))
def test_the_kernel_is_the_definition(texts, spans, weight, bits):
    asked, mask = (*spans[0], *spans[1]), (1 << bits) - 1
    ends = np.cumsum([len(t) for t in texts], dtype=np.int64)
    indptr, keys, values = _native.text_grams(b"".join(texts), ends, (*asked, WEIGHTS.index(weight)), 7, mask)
    for t, lo, hi in zip(texts, indptr[:-1], indptr[1:], strict=True):
        want = grams(t, asked, weight, 7, mask)
        assert keys[lo:hi].tolist() == list(want)  # in the order of first coming
        np.testing.assert_array_equal(values[lo:hi], np.array(list(want.values()), np.float32))


def test_every_character_is_of_a_word_or_separates_as_the_definition_says():
    everything = [chr(c) for c in range(1, 0x20000) if not 0xD800 <= c < 0xE000]
    texts = [f"a{c}b".encode() for c in everything]
    ends = np.cumsum([len(t) for t in texts], dtype=np.int64)
    found = _native.text_grams(b"".join(texts), ends, (1, 1, 0, 0, 0), 0, (1 << 30) - 1)
    want = [[text_hash(w.encode()) & (1 << 30) - 1 for w in dict.fromkeys(words(t))] for t in texts]
    np.testing.assert_array_equal(found[0], np.cumsum([0, *map(len, want)]))
    np.testing.assert_array_equal(found[1][: found[0][-1]], np.concatenate(want))
    assert all(lowered(c) == c.lower() for a, b in CASED for c in map(chr, range(a, b + 1)) if len(c.lower()) == 1)
    assert all(a <= b for a, b in BETWEEN) and sorted(BETWEEN) == list(BETWEEN)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(LETTERS + '"\n\r', max_size=30), min_size=1, max_size=8), st.sampled_from(["", "sqrt", "l2"]))
def test_a_quoted_column_a_line_and_a_list_give_the_same_rows(tmp_path_factory, texts, weight):
    folder = tmp_path_factory.mktemp("text")
    spec = "tokens?columns=text&words=1-2&chars=3-4" + f"&weight={weight}" * bool(weight)
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("text", "n", "y"), *((t, i, i % 2) for i, t in enumerate(texts))])
    (folder / "a.csv").write_bytes(out.getvalue().encode())
    table = rows(open_source(str(folder / "a.csv"), text=reading([spec]), target="y", task="binary", labels=("0", "1"),
                             header=True, delimiter=",", quoted_newlines=True, numeric=("n",)))
    made = tokens(texts, words="1-2", chars="3-4", weight=weight or "count")
    given = [dict(zip(made.keys[lo:hi].tolist(), made.values[lo:hi].tolist(), strict=True))
             for lo, hi in zip(made.indptr[:-1], made.indptr[1:], strict=True)]
    number = mix(text_hash(b"n")) & (1 << 20) - 1
    assume(all(number not in want for want in given))
    assert len(table) == len(texts)
    for i, ((y, found), want) in enumerate(zip(table, given, strict=True)):
        assert found.pop(number) == i
        assert (y, found) == (i % 2, want)
    flat = [t.replace("\n", " ").replace("\r", " ") for t in texts]
    (folder / "a.txt").write_bytes("".join(f"{i % 2} {t}\n" for i, t in enumerate(flat)).encode())
    lines = rows(open_source(str(folder / "a.txt"), format="text", text=reading([spec]), task="binary", labels=("0", "1")))
    assert lines == [(float(i % 2), want) for i, want in enumerate(given)]


def test_lines_of_text_find_their_labels_and_need_none(tmp_path):
    path = tmp_path / "mail.txt"
    path.write_bytes(b"spam\tCheap watches\nham See you\r\n see you soon\n\nham\n")
    source = open_source(str(path), format="text")
    assert source.schema.labels == ("ham", "spam") and source.schema.sparse and source.schema.width == 1 << 20
    found = rows(source)
    assert [y for y, _ in found[:2]] == [1, 0] and np.isnan(found[2][0]) and found[3] == (0.0, {})
    assert set(found[1][1]) < set(found[2][1])


def test_a_configuration_reads_its_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('n,review,y\n' + '1,"good, ""good"" film",1\n2,bad film,0\n' * 20)
    config = resolve(overrides=[f"data.source={path}", "clean.stages=tokens?columns=review&words=1-2&weight=sqrt"], env={})
    source = jobs.open_agreed(config, Alone())
    pipeline = open_pipeline(config.clean.stages, source.schema)
    first = rows(source)[0]
    made = tokens(['good, ""good"" film'], words="1-2", weight="sqrt", column="review")
    want = dict(zip(made.keys.tolist(), made.values.tolist(), strict=True))
    assert first[0] == 1 and {k: v for k, v in first[1].items() if k in want} == want and len(first[1]) == len(want) + 1
    assert pipeline is not None and pipeline.schema.width == 1 << 20


def test_what_cannot_be_read_as_text_is_said():
    for spec in ("tokens?words=9", "tokens?words=&chars=", "tokens?weight=idf", "tokens?words=2-1"):
        with pytest.raises(ConfigError, match="tokens"):
            reading([spec])
    with pytest.raises(ConfigError, match="first"):
        reading(["hash", "tokens"])
    with pytest.raises(ConfigError, match="source of text"):
        open_source("make:sea", text=reading(["tokens?columns=a"]))
    with pytest.raises(ConfigError, match="read as keys"):
        open_pipeline(["tokens?columns=a"], open_source("make:sea?rows=10").schema)


def test_a_column_that_is_the_target_or_none_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,y\nhello,1\nbye,0\n")
    for columns in ("", "y", "nope"):
        with pytest.raises(ConfigError):
            open_source(str(path), text=reading([f"tokens?columns={columns}"]))
