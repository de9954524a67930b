"""What tuning found, as lines of JSON that are only ever added to: in the store, or in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contractc.backends.triton import toolchain
from contractc.backends.triton.emit import GENERATOR
from contractc.backends.triton.problem import ALIGNMENT, Problem
from contractc.backends.triton.tasks import LIBRARY
from contractc.backends.triton.tiles import parsed
from contractc.serial import digest
from contractc.store import open_store

KIND = "tuned"
"""What lines are called in the store: an entry has all those of one key."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found for one task: the config and its seconds, on which GPU, by which generator and Triton.

    `key` is the digest of the problem: a canonical contraction with its strides, after fusion. The pointers of the
    operands were multiples of `alignment` bytes.
    """

    key: str
    gpu: str
    alignment: int
    generator: int
    triton: str | None
    config: str
    seconds: float


def row_of(problem: Problem, gpu: str, config: str, seconds: float) -> Tuned:
    """Return the row for what this generator and this Triton found for a problem."""
    return Tuned(digest(problem), gpu, ALIGNMENT, GENERATOR, toolchain.VERSION, config, seconds)


def known_rows(database: Path | None, gpu: str) -> Callable[[Problem], Tuned | None]:
    """Return what looks up the row of a problem that holds here; the last one of a key counts.

    `database` is a file, or None for the store. A line that is none (cut off by a crash, say), whose config cannot be
    read, or of another GPU, alignment, generator or Triton is passed over.
    """
    if database is None:
        return lambda problem: _last(_stored(problem, gpu), gpu).get(digest(problem))
    text = database.read_text(encoding="utf-8") if database.exists() else ""
    known = _last(text, gpu)
    return lambda problem: known.get(digest(problem))


def add(database: Path | None, problem: Problem, row: Tuned) -> None:
    """Add a line to the file `database`, or to the store."""
    line = json.dumps({name: getattr(row, name) for name in Tuned.__slots__}) + "\n"
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.open("a", encoding="utf-8") as file:
            file.write(line)
        return
    store = open_store()
    if store is not None:
        store.write(KIND, _key(problem, row.gpu), (_stored(problem, row.gpu) + line).encode())


def _key(problem: Problem, gpu: str) -> str:
    return digest([gpu, ALIGNMENT, GENERATOR, str(toolchain.VERSION), digest(problem)])


def _stored(problem: Problem, gpu: str) -> str:
    store = open_store()
    found = None if store is None else store.read(KIND, _key(problem, gpu))
    return "" if found is None else found.decode(errors="replace")


def _last(text: str, gpu: str) -> dict[str, Tuned]:
    """Return the rows of a text that hold here, by key."""
    found: dict[str, Tuned] = {}
    here = (gpu, ALIGNMENT, GENERATOR, toolchain.VERSION)
    for line in text.splitlines():
        try:
            row = Tuned(**json.loads(line))
            valid = row.config == LIBRARY or bool(parsed(row.config))
        except (ValueError, TypeError, AttributeError):
            continue
        if valid and (row.gpu, row.alignment, row.generator, row.triton) == here:
            found[row.key] = row
    return found
