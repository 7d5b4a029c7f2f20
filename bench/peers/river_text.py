"""River: BagOfWords, then FeatureHasher, text by text."""
import time


def prepare(path, words, chars, bits):
    import river
    from river.feature_extraction import BagOfWords
    from river.preprocessing import FeatureHasher

    texts = [line.split(" ", 1)[1] for line in open(path, encoding="utf-8").read().splitlines()]

    def run():
        bag, hasher, entries = BagOfWords(ngram_range=tuple(words)), FeatureHasher(n_features=1 << bits, seed=0), 0
        wall, cpu = time.perf_counter(), time.process_time()
        for text in texts:
            found = bag.transform_one(text)
            entries += len(hasher.transform_one({"_".join(k) if isinstance(k, tuple) else k: v for k, v in found.items()}))
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "rows": len(texts), "entries": entries,
                "version": river.__version__}

    return run
