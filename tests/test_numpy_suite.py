"""NumPy's own tests of einsum, from the installed wheel, with contractc.einsum in place of np.einsum.

NumPy's test file is executed here with a stand-in for `numpy` whose `einsum` is contractc's;
its classes and functions are then collected by pytest as if they had been written here. Nothing is copied.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.testing  # now, so that it becomes an attribute of numpy and not of the stand-in
import pytest

import contractc

FILE = Path(np.__file__).parent / "_core" / "tests" / "test_einsum.py"
if not FILE.exists():
    pytest.skip("this NumPy was installed without its tests", allow_module_level=True)

TESTS = 78
"""How many tests NumPy 2.4's file has: a newer NumPy may bring more, fewer would mean that some got lost."""

calls = 0
"""How often contractc has been called by NumPy's tests."""


def counted(name: str) -> Callable[..., Any]:
    """Return a function that counts and calls contractc's function of that name, looked up at every call."""

    def function(*args: Any, **kwargs: Any) -> Any:
        global calls
        calls += 1
        return getattr(contractc, name)(*args, **kwargs)

    function.__name__ = name
    return function


class StandIn(ModuleType):
    """NumPy, but for einsum."""

    einsum = staticmethod(counted("einsum"))

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def load() -> ModuleType:
    """Return NumPy's test module, executed with the stand-in for `import numpy as np`."""
    spec = importlib.util.spec_from_file_location("numpy_test_einsum", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stand_in = StandIn("numpy")
    stand_in.__path__ = np.__path__
    sys.modules["numpy"] = stand_in
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["numpy"] = np
    return module


suite = load()
names = [name for name in vars(suite) if name.lower().startswith("test")]
globals().update({name: getattr(suite, name) for name in names})


@pytest.fixture(autouse=True)
def contractc_is_called(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail each of NumPy's tests that never reaches contractc."""
    before = calls
    yield
    if request.node.originalname not in (*OWN, *ABOUT_PATHS):
        assert calls > before, "this test did not call contractc"


ABOUT_PATHS = (
    "test_einsum_sorting_behavior",
    "test_memory_contraints",
    "test_memory_constraints",
    "test_long_paths",
    "test_edge_paths",
)
"""Tests of np.einsum_path alone, which stays NumPy's here: they ask for the very orders that NumPy finds."""

OWN = ("test_the_suite_is_complete", "test_a_wrong_einsum_fails_the_suite", "test_numpy_itself_is_untouched")


def test_the_suite_is_complete() -> None:
    found = [getattr(suite, name) for name in names]
    functions = [f for f in found if not isinstance(f, type)]
    for class_ in set(found) - set(functions):
        functions += [f for name, f in vars(class_).items() if name.startswith("test")]
    marks = [[mark for mark in getattr(f, "pytestmark", []) if mark.name == "parametrize"] for f in functions]
    assert sum(math.prod(len(mark.args[1]) for mark in each) for each in marks) >= TESTS


def test_numpy_itself_is_untouched() -> None:
    assert sys.modules["numpy"] is np
    assert np.einsum.__module__ == "numpy"
    assert suite.np is not np
    assert suite.np.einsum is not np.einsum
    assert suite.np.array is np.array


def test_a_wrong_einsum_fails_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    right = contractc.einsum
    suite.test_overlap()
    suite.TestEinsum().test_einsum_sums_int32()
    monkeypatch.setattr(contractc, "einsum", lambda *args, **kwargs: right(*args, **kwargs) + 1)
    with pytest.raises(AssertionError):
        suite.test_overlap()
    with pytest.raises(AssertionError):
        suite.TestEinsum().test_einsum_sums_int32()
