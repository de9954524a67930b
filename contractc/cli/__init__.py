"""The command `contractc`: what the API does, from a terminal; it prints the same text as `str()`.

Exit status: 0 when done, 1 when what was asked cannot be done (the message is that of the API), 2 when the arguments
make no sense.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from contractc.cli.commands import COMMANDS, Failure
from contractc.cli.parser import parser
from contractc.errors import BundleError, StoreError
from contractc.options import colors_wanted

__all__ = ["main"]

EXPECTED = (ValueError, MemoryError, NotImplementedError, BundleError, StoreError, OSError, TypeError)
"""The errors of the API and of the system: they get a message. Anything else is a fault of ours: a traceback.

TypeError is what NumPy's rules give for an array of texts in a file, or for a dtype that would lose values.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (those of the process by default) and return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["bench"]:
        from contractc.bench.command import main as bench

        return bench(given[1:])
    try:
        options = parser().parse_args(given)
    except SystemExit as end:  # argparse has printed the usage, or the help
        return end.code if isinstance(end.code, int) else 2
    if options.command is None:
        parser().print_help(sys.stderr)
        return 2
    try:
        return COMMANDS[options.command](options)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has seen enough; without this Python complains at its end
        return 0
    except KeyboardInterrupt:
        print("contractc: interrupted", file=sys.stderr)
        return 1
    except Failure as error:
        print(f"contractc {options.command}: {error}", file=sys.stderr)
        return 2
    except EXPECTED as error:
        name = type(error).__name__
        if colors_wanted(sys.stderr):
            name = f"\x1b[1;31m{name}\x1b[0m"
        print(f"{name}: {error}", file=sys.stderr)
        return 1
