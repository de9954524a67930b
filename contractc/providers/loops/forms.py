"""How an input of a compiled loop lies in memory."""

from __future__ import annotations

ORDERED, UNIT, STRIDED = 2, 1, 0
"""In the order of its axes without gaps; with unit stride in its last axis; anyhow."""

COPIED = -1
"""In strides that are no whole elements, so that it has to be copied before loops can read it."""
