"""Run every check, two at a time on two cores, and end with a table of what passed, was skipped and failed.

    python tools/check.py [stage ...]

All stages run even if one fails; a failed stage's output is shown in full, and the exit status is 1.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest", "-q", "-rs", "--color=no")


@dataclass(frozen=True, slots=True)
class Stage:
    """One command, the folders without which it is skipped, and what it needs in its environment."""

    name: str
    command: Sequence[str]
    folders: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage ended: `passed`, `skipped` or `FAILED`, and what there is to say about it."""

    stage: str
    verdict: str
    detail: str


OLDER = Path(sys.prefix) / "triton36"
"""Where the Makefile puts triton 3.6.0: kernels are compiled by both versions that GPU machines have."""

PAGES = tuple(name for name in ("README.md", "docs") if (ROOT / name).exists())

STAGES = (
    Stage("lint", (PYTHON, "-m", "ruff", "check", "--quiet", ".")),
    Stage("format", (PYTHON, "-m", "ruff", "format", "--check", "--output-format=concise", ".")),
    Stage("types", (PYTHON, "-m", "mypy", "--no-error-summary")),
    Stage("tests", (*PYTEST, "tests", "--ignore=tests/kernels")),
    Stage("doctests", (*PYTEST, "--doctest-modules", "contractc")),
    Stage("docs", (*PYTEST, "--doctest-glob=*.md", *PAGES)),
    Stage("kernels", (*PYTEST, "tests/kernels"), ("tests/kernels",), {"TRITON_INTERPRET": "1"}),
    Stage(
        "triton36",
        (
            *PYTEST,
            "-p",
            "no:cacheprovider",
            "tests/test_triton.py",
            "-k",
            "hopper or precision or offsets or version",
        ),
        (str(OLDER),),
        {
            "PYTHONPATH": f"{OLDER}{os.pathsep}{ROOT}{os.pathsep}{ROOT / 'kernels'}",
            "EXPECTED_TRITON": "3.6.0",
        },
    ),
    Stage("wheel", (PYTHON, "tools/wheel.py")),
)


def run(stage: Stage) -> Outcome:
    """Return how `stage` ended, having printed its output if it failed."""
    missing = [folder for folder in stage.folders if not (ROOT / folder).is_dir()]
    if missing:
        return Outcome(stage.name, "skipped", f"there is no folder {', '.join(missing)}")
    start = time.monotonic()
    done = subprocess.run(
        stage.command,
        cwd=ROOT,
        env=os.environ | stage.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    seconds = f"{time.monotonic() - start:.0f} s"
    counts = re.findall(
        r"^(?:=+ )?(\d+ (?:passed|failed|skipped|error|deselected).*?)(?: in [\d.]+s.*)?$", done.stdout, re.M
    )
    detail = f"{counts[-1]}, {seconds}" if counts else seconds
    if stage.command[: len(PYTEST)] == PYTEST and done.returncode == 5:
        return Outcome(stage.name, "skipped", "there are none")
    if done.returncode:
        print(f"{stage.name} ... FAILED\n{done.stdout}", flush=True)
        return Outcome(stage.name, "FAILED", detail)
    skipped = [f"\n  {line}" for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    print(f"{stage.name} ... {seconds}{''.join(skipped)}", flush=True)
    return Outcome(stage.name, "passed", detail)


def main(names: Sequence[str]) -> int:
    """Run the stages called `names`, or all of them, and return the exit status."""
    known = {stage.name: stage for stage in STAGES}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no stage is called {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        outcomes = list(pool.map(run, [known[name] for name in names or known]))
    print()
    for outcome in outcomes:
        print(f"{outcome.verdict:8} {outcome.stage:9} {outcome.detail}")
    failed = [outcome.stage for outcome in outcomes if outcome.verdict == "FAILED"]
    print(f"FAILED: {', '.join(failed)}" if failed else "nothing failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
