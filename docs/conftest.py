"""Pages whose examples need a library that is not there are skipped."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["nn.md"]
