"""What a search is asked, and what it answers."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

from contractc.cost import Costs
from contractc.machine import Target
from contractc.options import Search
from contractc.plans import Alternative, Path
from contractc.search.clock import Clock


class Ask(NamedTuple):
    """What the user asks of a search, the clock that runs while it searches, the engine if that is not its choice.

    `target` is where the plan is to run.
    """

    options: Search = Search()
    clock: Clock = Clock()
    engine: ModuleType | None = None
    target: Target = Target()


class Found(NamedTuple):
    """A path, the search that found it, the moves of annealing that find it again, other good paths, other choices.

    `costs` are those of the path, if they were looked at.
    """

    path: Path
    search: str
    moves: tuple[int, ...] = ()
    others: tuple[Path, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    costs: Costs | None = None
