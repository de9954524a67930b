"""What a search is asked, and what it answers."""

from __future__ import annotations

from typing import NamedTuple

from contractc.options import Search
from contractc.plans import Path
from contractc.search.clock import Clock


class Ask(NamedTuple):
    """What the user asks of a search, and the clock that runs while it searches."""

    options: Search = Search()
    clock: Clock = Clock()


class Found(NamedTuple):
    """A path, the search that found it in words, the moves of annealing that find it again, other good paths."""

    path: Path
    search: str
    moves: tuple[int, ...] = ()
    others: tuple[Path, ...] = ()
