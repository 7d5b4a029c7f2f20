"""Runs in the peers' environment: loads one peer script and answers requests, one JSON object a line.

{"op": "prepare", "options": {...}} -> {} | {"missing": package} | {"error": text}
{"op": "run"} -> {"wall": s, "cpu": s, "result": any}.  A round that times itself returns {"wall", "cpu", ...}.
"""
import contextlib
import importlib.util
import json
import os
import resource
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS"):
    os.environ[name] = "1"


def cpu_s():
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def load(path):
    spec = importlib.util.spec_from_file_location("peer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(call):
    wall, cpu = time.perf_counter(), cpu_s()
    result = call()
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    if isinstance(result, dict):
        wall, cpu = result.pop("wall", wall), result.pop("cpu", cpu)
    return {"wall": wall, "cpu": cpu, "result": result}


def answer(request, calls, path):
    if request["op"] == "prepare":
        calls[:] = [load(path).prepare(**request["options"])]
        return {}
    return run(calls[0])


def main(path):
    out, calls = os.fdopen(os.dup(1), "w"), []
    os.dup2(2, 1)
    for text in sys.stdin:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                reply = answer(json.loads(text), calls, path)
        except ModuleNotFoundError as error:
            reply = {"missing": error.name}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(reply) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
