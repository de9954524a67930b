"""contractc beside its peers on one core of a CPU: `contractc bench` over benchmarks/cases.

    python benchmarks/cpu.py [--group tccg] [--dtype f32] [--rounds 5] [--control CORE] [--out lines.jsonl]

All options of `contractc bench` work; see benchmarks/README.md. Groups that take long or much memory
(`tccg_official`, `networks`) are measured when they are named.
"""

from __future__ import annotations

import sys
from pathlib import Path

from contractc.bench.command import main

CASES = Path(__file__).parent / "cases"
LONG = {"tccg_official"}

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--cases" not in arguments:
        files = [p for p in sorted(CASES.glob("*.json")) if p.stem not in LONG or p.stem in arguments]
        files += sorted((CASES / "networks").glob("*.json")) if "networks" in arguments else []
        arguments = [*arguments, "--cases", *map(str, files)]
    sys.exit(main(arguments))
