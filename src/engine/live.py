"""The live view of `engine run` on a terminal: what the ranks say scrolls above a few lines that are drawn anew.

Only the parent that owns the terminal draws. Rank 0 appends a record a report to the file that `ENGINE_LIVE` names; the
view reads it from time to time, so the ranks never wait for a terminal.
"""
from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from engine.watch.log import count, duration, percent, read_lines, real, size

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48


def wanted(verb: list[str]) -> bool:
    """Whether a view is drawn: a learning verb on a terminal, and nobody asked for silence or for JSON."""
    return sys.stdout.isatty() and verb[:1] in (["train"], ["demo"]) and not {"--quiet", "--json"} & set(verb)


def spark(values: list[float], width: int = WIDTH) -> str:
    """The last `width` values as bars between their least and greatest.

    >>> spark([0.0, 1.0])
    '▁█'
    """
    shown = values[-width:]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((value - low) / step)] for value in shown)


def panel(records: list[dict[str, Any]], ranks: int, seconds: float) -> list[str]:
    """The lines of the view: where the run stands, and the loss of each stretch so far."""
    head = f"{duration(seconds)}  {ranks} rank{'s' * (ranks > 1)}"
    if not records:
        return [f"{head}  starting"]
    last = records[-1]
    curve = [record["loss_last"] for record in records if record.get("loss_last") is not None]
    return [
        f"{head}  {count(last['rows'])} rows  {count(last['rows_s'])} rows/s  wait {percent(last['wait'])}"
        f"  sent {size(last['bytes_sent'])}",
        f"loss {real(last['loss_avg'])}, last {real(last['loss_last'])}  accuracy {real(last.get('accuracy'))}  {spark(curve)}",
    ]


class View:
    """Draws until the job ends. `record`: the file of rank 0's reports; `output`: what the launcher and its ranks print."""

    def __init__(self, ranks: int, record: Path) -> None:
        self.ranks, self.record, self.began_s = ranks, record, time.monotonic()

    def draw(self) -> Any:
        from rich.text import Text

        records = read_lines(self.record) if self.record.exists() else []
        return Text("\n".join(panel(records, self.ranks, time.monotonic() - self.began_s)), no_wrap=True, overflow="crop")

    def follow(self, child: subprocess.Popen[bytes]) -> threading.Thread:
        """Shows the job in a thread that ends with the job's output; join it after the job."""
        assert child.stdout is not None
        thread = threading.Thread(target=self._show, args=(child.stdout,), name="view", daemon=True)
        thread.start()
        return thread

    def _show(self, output: IO[bytes]) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console()
        with Live(get_renderable=self.draw, console=console, refresh_per_second=4, transient=True):
            for line in output:
                console.print(line.decode(errors="replace").rstrip("\n"), markup=False, highlight=False, soft_wrap=True)
