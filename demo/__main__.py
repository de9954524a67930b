"""`python -m demo [section ...]`: run the sections, all by default; exit 1 if a check fails.

Unless OMP_NUM_THREADS is set, everything runs on one thread, so that seconds compare on a busy machine, too.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from time import perf_counter

SECTIONS = ("karate", "dominoes", "ising", "circuit", "layers")


def main(names: list[str]) -> int:
    """Return the exit status after running the sections called `names`."""
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        print(f"no section is called {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
        return 2
    from demo.report import Report

    report = Report()
    start = perf_counter()
    for name in names or SECTIONS:
        import_module(f"demo.{name}").run(report)
    passed, seconds = report.checks - len(report.failed), perf_counter() - start
    print(f"\n{passed} of {report.checks} checks passed in {seconds:.0f} s")
    for what in report.failed:
        print(f"FAILED: {what}")
    return int(bool(report.failed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when NumPy is imported, which is later
    sys.exit(main(sys.argv[1:]))
