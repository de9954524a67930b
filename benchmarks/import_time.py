"""Seconds of `import contractc` beside `import numpy`, in interleaved fresh interpreters.

`from contractc import contract` is measured too: names are loaded when they are first used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 31
BAR = 1.3
"""An import is to take at most this many times NumPy's."""

CODES = ("pass", "import numpy", "import contractc", "from contractc import contract")


def seconds(code: str) -> float:
    """Return the seconds a fresh interpreter takes to start, run `code` and end."""
    start = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return perf_counter() - start


def main() -> None:
    """Print the median of each, and its ratio to NumPy's, both without the interpreter's own start."""
    for code in CODES:
        seconds(code)
    rounds = [[seconds(code) for code in CODES] for _ in range(ROUNDS)]
    start = median(row[0] for row in rounds)
    for k, code in enumerate(CODES):
        line = f"{code:31} {median(row[k] for row in rounds) * 1e3:6.1f} ms"
        if k > 1:
            low, middle, high = quantiles([(row[k] - start) / (row[1] - start) for row in rounds], n=4)
            line += f"   ratio to numpy {middle:.2f} (quartiles {low:.2f} to {high:.2f}), at most {BAR}"
        print(line)


if __name__ == "__main__":
    main()
