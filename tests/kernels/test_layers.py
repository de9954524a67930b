"""Layers planned for kernels, in the interpreter: the tests of tests/test_nn.py, run by the Triton backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from drawn import INTERPRETED

from contractc.machine import Target
from test_nn import *

pytestmark = INTERPRETED


@pytest.fixture(autouse=True)
def planned_for_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from contractc.backends.triton import choose, steps, tasks

    def slow(*given: Any, **named: Any) -> float:
        return 1.0

    monkeypatch.setattr(tasks, "library_seconds", slow)
    monkeypatch.setattr("contractc.nn.planned.where", lambda library, device: Target("triton", "cuda"))
    cached = (tasks.choice, choose.chosen, steps._function)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()
