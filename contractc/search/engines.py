"""Which engine makes the moves of a search: Python's, which starts at once, or numba's, which is faster."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from contractc.search import anneal_python

COMPILED = "contractc.search.anneal_numba"


def engine(seconds: float) -> ModuleType:
    """Return the engine for a search of about `seconds`: numba's where loading it leaves most of the time.

    Compiling takes longer than loading what an earlier process has compiled; both are counted.
    """
    if COMPILED in sys.modules:
        return sys.modules[COMPILED]
    if find_spec("numba") is None or seconds < (LOADING if _is_compiled() else COMPILING):
        return anneal_python
    return import_module(COMPILED)


LOADING = 1.2
"""Seconds of search from which loading numba and its cached code (half a second) pays."""

COMPILING = 20.0
"""Seconds of search from which compiling pays."""


def _is_compiled() -> bool:
    """Return whether an earlier process has left compiled code of this engine beside it."""
    folder = Path(__file__).parent
    source = folder / "anneal_numba.py"
    made = [path.stat().st_mtime for path in (folder / "__pycache__").glob("anneal_numba.*.nbi")]
    return bool(made) and source.exists() and max(made) >= source.stat().st_mtime
