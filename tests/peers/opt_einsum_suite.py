"""Run opt_einsum's own test suite, from its installed wheel, with contractc.compat.opt_einsum in its place.

    python tests/peers/opt_einsum_suite.py [pytest options]

`contract`, `contract_path`, `contract_expression` are replaced in the package before its tests are imported.
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

APPROX_OF_JAX = "fails with opt_einsum alone too: pytest.approx reads .flat, which JAX arrays refuse"
BIT_BY_BIT = (
    "demands the same bits inside and outside of shared_intermediates(): inside, opt_einsum's dispatch "
    "computes, outside contractc does, so the values differ by rounding"
)
KNOWN = {
    "test_backends.py::test_jax_jit_gradient": APPROX_OF_JAX,
    "test_sharing.py::test_sharing_value[numpy-abc,bcd,dea]": BIT_BY_BIT,
    "test_sharing.py::test_sharing_value[numpy-ijk,ikj]": BIT_BY_BIT,
    "test_sharing.py::test_sharing_value[torch-abc,bcd,dea]": BIT_BY_BIT,
    "test_sharing.py::test_sharing_value[torch-ijk,ikj]": BIT_BY_BIT,
}
"""Why a test fails, by its name; such a failure does not count against contractc. With other random operands
it may pass."""


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
    compat._route = counted(compat._route, routes)
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        options = ["-c", os.devnull, "--rootdir", folder, "-p", "no:cacheprovider", "-q", "--tb=short"]
        status = pytest.main([*options, *arguments, "--pyargs", "opt_einsum.tests"], plugins=[record])
    new = [test for test in record.failed if test not in KNOWN]
    print(
        f"\nopt_einsum {opt_einsum.__version__}'s own tests, with contractc.compat.opt_einsum in its place:"
    )
    print(f"{record.passed} passed, {record.skipped.total()} skipped, {len(record.failed)} failed")
    for reason, times in record.skipped.most_common():
        print(f"  skipped {times}: {reason}")
    for test, message in record.failed.items():
        print(f"  failed {test}: {KNOWN.get(test, f'NOT EXPECTED: {message}')}")
    for route, times in routes.most_common():
        print(f"  {times} contractions by {route}")
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not record.passed:
        return int(status) or 1
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
