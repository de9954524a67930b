"""The command `contractc`: what the API does, from a terminal; it prints the same text as `str()`.

Exit status: 0 when done, 1 when what was asked cannot be done (the message is that of the API), 2 when the arguments
make no sense.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from contractc.cli.failure import Failure
from contractc.errors import BundleError, StoreError
from contractc.options import colors_wanted

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]

EXPECTED = (ValueError, MemoryError, NotImplementedError, BundleError, StoreError, OSError, TypeError)
"""The errors of the API and of the system: they get a message. Anything else is a fault of ours: a traceback.

TypeError is what NumPy's rules give for an array of texts in a file, or for a dtype that would lose values.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (those of the process by default) and return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    command = given[0] if given else ""
    try:
        return _run(given)
    except SystemExit as end:  # argparse has printed the usage, or the help
        return end.code if isinstance(end.code, int) else 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has seen enough; without this Python complains at its end
        return 0
    except KeyboardInterrupt:
        print("contractc: interrupted", file=sys.stderr)
        return 1
    except Failure as error:
        print(f"contractc {command}: {error}", file=sys.stderr)
        return 2
    except EXPECTED as error:
        name = type(error).__name__
        if colors_wanted(sys.stderr):
            name = f"\x1b[1;31m{name}\x1b[0m"
        print(f"{name}: {_told(error)}", file=sys.stderr)
        return 1


def _run(given: list[str]) -> int:
    """Run a subcommand; what it needs is loaded here, where an interrupt is no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # labels may be letters that the terminal does not have
            stream.reconfigure(errors="backslashreplace")
    if given[:1] == ["bench"]:
        from contractc.bench.command import main as bench

        return bench(given[1:])
    options = _parsed(given)
    from contractc.cli.commands import COMMANDS

    return COMMANDS[options.command](options)


def _parsed(given: list[str]) -> argparse.Namespace:
    """Return the arguments of a subcommand; the files of `run` may stand behind its options too."""
    from pathlib import Path

    from contractc.cli.parser import parser

    made = parser()
    options, rest = made.parse_known_args(given)
    if options.command is None:
        made.print_help(sys.stderr)
        raise SystemExit(2)
    if options.command == "run":
        options.files += [Path(text) for text in rest if not text.startswith("-")]
        rest = [text for text in rest if text.startswith("-")]
    if rest:
        made.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _told(error: Exception) -> str:
    """Return what an error says; of one of the system, what it is about and why, without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
