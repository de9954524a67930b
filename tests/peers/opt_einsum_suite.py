"""Run opt_einsum's own test suite, from its installed wheel, with contractc.compat.opt_einsum in its place.

    python tests/peers/opt_einsum_suite.py [pytest options]

`contract`, `contract_path` and `contract_expression` are replaced in the package before its tests are imported.
Printed are the tests passed, skipped and failed, each failure with its reason, and how many contractions
contractc ran itself. The exit status is 0 if the only failures are those in `KNOWN`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import opt_einsum
import pytest

import contractc.compat.opt_einsum as compat

REPLACED = ("contract", "contract_path", "contract_expression")

KNOWN: dict[str, str] = {}
"""Why a test fails, by the end of its name; such a failure does not count against contractc."""


class Record:
    """A pytest plugin that keeps the outcome of every test."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.skipped: Counter[str] = Counter()
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one phase of one test; a test is over after its call, or when its setup does not pass."""
        name = report.nodeid.replace("\\", "/").rpartition("/")[2]
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failed[name] = str(crash.message if crash else report.longrepr).splitlines()[0]
        elif report.skipped:
            _, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
            self.skipped[reason.removeprefix("Skipped: ")] += 1
        elif report.when == "call":
            self.passed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a module that cannot be imported as one failure."""
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr).splitlines()[-1]


def counted(function: Callable[..., Any], routes: Counter[str]) -> Callable[..., Any]:
    """Return compat's `_route`, counting what it answers."""

    def route(arrays: Sequence[Any], backend: str | None) -> tuple[str | None, str]:
        answer: tuple[str | None, str] = function(arrays, backend)
        routes["opt_einsum's dispatch" if answer[0] is None else f"contractc on {answer[0]}"] += 1
        return answer

    return route


def main(arguments: Sequence[str]) -> int:
    """Run the suite, print what came of it, and return the exit status."""
    for name in REPLACED:
        setattr(opt_einsum, name, getattr(compat, name))
    routes: Counter[str] = Counter()
    compat._route = counted(compat._route, routes)  # type: ignore[assignment]
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        options = ["-c", os.devnull, "--rootdir", folder, "-p", "no:cacheprovider", "-q", "--tb=short"]
        status = pytest.main([*options, *arguments, "--pyargs", "opt_einsum.tests"], plugins=[record])
    new = {test: message for test, message in record.failed.items() if reason_for(test) is None}
    print(
        f"\nopt_einsum {opt_einsum.__version__}'s own tests, with contractc.compat.opt_einsum in its place:"
    )
    print(f"{record.passed} passed, {record.skipped.total()} skipped, {len(record.failed)} failed")
    for reason, times in record.skipped.most_common():
        print(f"  skipped {times}: {reason}")
    for test, message in record.failed.items():
        print(f"  failed {test}: {reason_for(test) or f'NOT EXPECTED: {message}'}")
    for route, times in routes.most_common():
        print(f"  {times} contractions by {route}")
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not record.passed:
        return int(status) or 1
    return 1 if new else 0


def reason_for(test: str) -> str | None:
    """Return why `test` is known to fail, or None if it is not."""
    return next((reason for name, reason in KNOWN.items() if test.endswith(name)), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
