"""scikit-learn: HashingVectorizer over texts, in batches of 1000."""
import time


def prepare(path, words, chars, bits):
    """`path`: a document a line, after its label and a blank. Read outside the clock; words and chars as [least, largest]."""
    import sklearn
    from sklearn.feature_extraction.text import HashingVectorizer

    texts = [line.split(" ", 1)[1] for line in open(path, encoding="utf-8").read().splitlines()]
    kinds = {"analyzer": "word", "ngram_range": tuple(words)} if words else {"analyzer": "char_wb", "ngram_range": tuple(chars)}
    made = HashingVectorizer(n_features=1 << bits, alternate_sign=False, norm=None, token_pattern=r"\w+", **kinds)

    def run():
        wall, cpu, entries = time.perf_counter(), time.process_time(), 0
        for start in range(0, len(texts), 1000):
            entries += made.transform(texts[start : start + 1000]).nnz
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "rows": len(texts), "entries": entries,
                "version": sklearn.__version__}

    return run
