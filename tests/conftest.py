"""Options and fixtures of the test suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

import fuzzing

os.environ["CONTRACTC_STORE"] = "off"  # what an earlier run has left in the user's store decides no test

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-examples",
        type=int,
        default=None,
        metavar="N",
        help=f"draw N random examples in all instead of the fixed {fuzzing.DEFAULT_EXAMPLES}",
    )
    parser.addoption(
        "--hide",
        action="append",
        default=[],
        metavar="LIBRARY",
        help="run as if this optional library were not installed (in this process)",
    )
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden instead of comparing")


def pytest_configure(config: pytest.Config) -> None:
    for name in config.getoption("--hide"):
        sys.modules[name] = None  # type: ignore[assignment]  # what import and find_spec take for absent
    wanted = config.getoption("--fuzz-examples")
    hypothesis.settings.register_profile(
        "contractc",
        deadline=None,
        database=None,
        derandomize=wanted is None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("contractc")
    if wanted is not None:
        fuzzing.set_examples(wanted)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with tests/golden/<name>.txt; `--update-golden` writes the file instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        text = text.rstrip("\n") + "\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            return
        if not path.exists():
            pytest.fail(f"tests/golden/{name}.txt does not exist; run pytest with --update-golden")
        assert text == path.read_text(encoding="utf-8"), (
            f"tests/golden/{name}.txt (--update-golden rewrites it)"
        )

    return compare
