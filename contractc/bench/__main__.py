"""The measuring process that `contractc bench` starts."""

from __future__ import annotations

import sys

from contractc.bench.command import measure

if __name__ == "__main__":
    try:
        sys.exit(measure(sys.argv[1:]))
    except KeyboardInterrupt:  # the command that started this says so
        sys.exit(1)
