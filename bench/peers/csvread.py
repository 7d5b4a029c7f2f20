"""pandas (C engine) and pyarrow.csv on one thread: a whole CSV file to float32 columns."""


def prepare(path, reader):
    """`reader`: pandas, or arrow (one block of 2 MiB at a time, one thread)."""
    if reader == "pandas":
        import pandas

        def run():
            table = pandas.read_csv(path, engine="c", dtype="float32")
            return {"rows": len(table), "version": pandas.__version__}

        return run
    import pyarrow
    from pyarrow import csv

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    options = csv.ReadOptions(use_threads=False, block_size=1 << 21)

    def run():
        rows = sum(len(batch) for batch in csv.open_csv(path, read_options=options))
        return {"rows": rows, "version": pyarrow.__version__}

    return run
