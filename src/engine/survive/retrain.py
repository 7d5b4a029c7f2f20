"""The last resort: where no checkpoint is intact, the model is learned again from rows that are still there, and it is said."""
from __future__ import annotations

from pathlib import Path

from engine import job as jobs
from engine.config import Config
from engine.errors import StoreError
from engine.store import checkpoint as store
from engine.store.atomic import move_dir
from engine.types import Link, Source


def origin(config: Config, source: Source) -> str:
    """Where every row since the first can be read again: the source, the spool, or "" where neither has them."""
    if source.pieces is not None and config.data.source != "-":
        return f"the source {config.data.source}"
    feeds = [path for path in Path(config.data.spool).iterdir() if path.is_dir()] if config.data.spool else []
    if feeds and all((path / f"{0:020d}.rows").exists() for path in feeds):
        return f"the row spool {config.data.spool}"
    return ""


def again(lost: store.Unrepairable, link: Link, config: Config, source: Source) -> str:
    """Sets the damaged checkpoints aside so that the run starts from its first row; says so (collective).

    StoreError where the rows are not there any more, or where `checkpoint.resume=must` forbids a start from nothing.
    """
    folder = Path(config.checkpoint.dir)
    rows = link.bcast(origin(config, source) if not link.rank else "", name="rows to learn again")
    if not rows or config.checkpoint.resume == "must":
        why = "checkpoint.resume=must forbids to learn anew" if rows else "neither the source nor a spool has all rows any more"
        raise StoreError(f"{lost.message}; {why}", where=lost.where, fix=lost.fix)
    jobs.agreed(link, lambda: _aside(folder) if not link.rank else None, "set damaged checkpoints aside")
    return f"unrepairable: {lost.message}; set aside as {folder}/aside-*, learning again from the first row of {rows}"


def _aside(folder: Path) -> None:
    for step in store.steps(folder):
        number, target = 0, folder / f"aside-{step:012d}"
        while target.exists():
            number += 1
            target = folder / f"aside-{step:012d}.{number}"
        move_dir(store.step_dir(folder, step), target)
