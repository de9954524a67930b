"""The measuring process that `contractc bench` starts."""

from __future__ import annotations

import sys

from contractc.bench.command import measure

if __name__ == "__main__":
    sys.exit(measure(sys.argv[1:]))
