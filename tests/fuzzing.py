"""How many examples the differential fuzz draws: a fixed 2,000, or as many as --fuzz-examples says."""

from __future__ import annotations

import hypothesis

DEFAULT_EXAMPLES = 2000
_examples = DEFAULT_EXAMPLES


def set_examples(count: int) -> None:
    """Set the number of examples of all fuzz tests together; called before test modules are imported."""
    global _examples
    _examples = count


def examples() -> int:
    """Return the number of examples of all fuzz tests together."""
    return _examples


def share(fraction: float) -> hypothesis.settings:
    """Return the settings of a test that draws this fraction of all examples."""
    return hypothesis.settings(max_examples=max(1, round(_examples * fraction)))
