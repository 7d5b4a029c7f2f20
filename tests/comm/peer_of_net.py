"""One rank of `test_net.py`, on a host of its own: arguments RANK RAILS PLACE; addresses and results are files of PLACE."""
import json
import sys
import time
from pathlib import Path

import numpy as np

from engine.comm.flow import LOOSE, Options
from engine.comm.socket import Socketlink

rank, rails, place = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
count, size = 40, 1 << 20
bodies = [np.random.default_rng(k).integers(0, 256, size).astype(np.uint8) for k in range(count)]
good, late = 0, []
link = Socketlink(rank, 2, [f"10.{77 + k}.0.{rank + 1}" for k in range(rails)], timeout_s=40, options=Options(silent_s=1.0))
(place / f"address-{rank}.new").write_text(json.dumps(link.addresses()))
(place / f"address-{rank}.new").rename(place / f"address-{rank}")
while not all((place / f"address-{r}").exists() for r in range(2)):
    time.sleep(0.02)
link.start([json.loads((place / f"address-{r}").read_text()) for r in range(2)])
link.barrier(name="up")
(place / f"up-{rank}").touch()
if rank == 0:
    for number, body in enumerate(bodies):
        link.send(body, 1, name="state", tag=5)
        link.post(np.full(100, number, np.uint8), 1, name="metric", tag=9, kind=LOOSE)
    link.flush(name="flush")
else:
    for body in bodies:
        good += np.array_equal(link.take(0, name="state", tag=5), body)
    time.sleep(0.2)
    while link.probe(tag=9) is not None:
        late.append(int(link.take(0, name="metric", tag=9)[0]))
    extra = link.probe(tag=5)
    good -= extra is not None  # something came twice
link.barrier(name="down")
counts = link.counters()[1 - rank]
(place / f"found-{rank}").write_text(json.dumps({"good": int(good), "metrics": len(late), **counts}))
link.close()
