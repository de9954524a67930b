"""`python -m demo [--patient] [section ...]`: run the sections, all by default; exit 1 if a check fails.

With `--patient` the peers are run even where they need a minute.
"""

from __future__ import annotations

import sys
from importlib import import_module
from time import perf_counter

from demo.report import Report

SECTIONS = ("karate", "dominoes", "ising", "circuit", "layers")


def main(arguments: list[str]) -> int:
    """Return the exit status after running the sections named in `arguments`."""
    names = [name for name in arguments if name != "--patient"]
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        print(f"no section is called {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
        return 2
    report = Report(patient="--patient" in arguments)
    start = perf_counter()
    for name in names or SECTIONS:
        import_module(f"demo.{name}").run(report)
    passed, seconds = report.checks - len(report.failed), perf_counter() - start
    print(f"\n{passed} of {report.checks} checks passed in {seconds:.0f} s")
    for what in report.failed:
        print(f"FAILED: {what}")
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
