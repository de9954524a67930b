"""The arguments of the command `contractc`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  contractc plan "ij,jk,kl->il" --shapes 64,8 8,64 64,8
  contractc compile "bi,ij->bj" --shapes 32,64 64,10 --dynamic b --save net.ccb
  contractc run net.ccb operands.npz --out result.npz
  contractc doctor
"""

PLAN = """examples:
  contractc plan "ij,jk,kl->il" --shapes 64,8 8,64 64,8
  contractc plan "abc,cd->abd" --shapes 8,8,8 8,4 --dtype complex64 --memory-limit 4096
  contractc plan --network net.json --html plan.html
  contractc plan "ij,jk,kl->il" --shapes 3,4 4,5 5,6 --json > plan.json
  contractc plan "ij,jk,kl->il" --shapes 3,4 4,5 5,6 --path plan.json

A network is JSON: what TensorNetwork.to_json() writes, or
  {"expression": "ij,jk->ik", "shapes": [[3, 4], [4, 5]], "dtype": "float32", "dynamic": ["i"]}
"""

COMPILE = """examples:
  contractc compile "ij,jk,kl->il" --shapes 64,8 8,64 64,8
  contractc compile "bi,ij->bj" --shapes 32,64 64,10 --constant 1=weights.npy --dynamic b --save net.ccb
  contractc compile "ij,jk->ik" --shapes 3,4 4,5 --target numpy torch --save net.ccb
  contractc compile "ij,jk->ik" --shapes 3,4 4,5 --show source
"""

RUN = """examples:
  contractc run net.ccb operands.npz --out result.npz
  contractc run net.ccb x.npy y.npy --out result.safetensors
  contractc run "ij,jk->ik" operands.safetensors

Arrays in one file are the operands in the order of the file; of several files each adds its own. Without --out the
results are printed.
"""

CACHE = """examples:
  contractc cache ls
  contractc cache prune --bytes 100000000
  contractc cache verify
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command and all its subcommands."""
    made = argparse.ArgumentParser(
        prog="contractc",
        description="Plan, compile and run einsum expressions over tensor networks.",
        epilog=EXAMPLES,
        formatter_class=_Help,
    )
    commands = made.add_subparsers(dest="command", metavar="command")

    def command(name: str, about: str, epilog: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about, epilog=epilog, formatter_class=_Help)
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    plan = command("plan", "find the order of contraction and print its predicted costs", PLAN)
    _problem(plan)
    plan.add_argument("--path", type=Path, metavar="FILE", help="take the order from JSON: a path or a plan")
    plan.add_argument("--html", type=Path, metavar="FILE", help="write a page about the plan")

    build = command("compile", "plan and compile, print what runs as what, save a bundle", COMPILE)
    _problem(build)
    build.add_argument("--target", nargs="+", default=["numpy"], help="numpy, torch, torch:cuda, ... (numpy)")
    build.add_argument(
        "--constant", nargs="+", default=[], metavar="N=FILE", help="operand N never changes; its .npy file"
    )
    build.add_argument("--save", type=Path, metavar="FILE", help="write a bundle for all targets")
    build.add_argument(
        "--show",
        choices=("network", "plan", "program", "source", "executable"),
        default="executable",
        help="which stage to print (executable)",
    )

    run = command("run", "run a bundle or an expression on arrays from files", RUN)
    run.add_argument("what", help="a bundle (.ccb) or an einsum text")
    run.add_argument("files", nargs="*", type=Path, help=".npy, .npz or .safetensors files with the operands")
    run.add_argument("--out", type=Path, metavar="FILE", help=".npz or .safetensors file for the results")
    run.add_argument("--target", help="which target of the bundle (the first that works)")
    run.add_argument("--sha256", help="refuse a bundle with another digest; its binaries are trusted")
    run.add_argument("--trust", action="store_true", help="use binaries in the bundle: they are code")

    commands.add_parser("bench", help="measure contractions beside other libraries", add_help=False)

    tune = command(
        "tune", "choose kernels by measurement (without a GPU by compiling them), print the program"
    )
    _problem(tune)
    tune.add_argument("--target", required=True, help="whose kernels, such as triton:cuda:90")
    tune.add_argument(
        "--database",
        type=Path,
        metavar="FILE",
        help="JSON lines of what was timed before, in place of the store",
    )

    cache = command("cache", "what is kept on disk from one process to the next", CACHE)
    cache.add_argument("action", choices=("ls", "prune", "verify"), help="list, shrink, or check every entry")
    cache.add_argument("--bytes", type=int, metavar="N", help="prune: leave at most this much")

    doctor = command("doctor", "what is installed, what works here, and how fast this machine is")
    doctor.add_argument("--quick", action="store_true", help="measure nothing")
    return made


def _problem(to: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is to be contracted, and how."""
    to.add_argument("expression", nargs="?", help='an einsum text such as "ij,jk->ik"')
    to.add_argument(
        "--shapes", nargs="+", default=[], metavar="N,M", help="extents of each operand; scalar: -"
    )
    to.add_argument("--network", type=Path, metavar="FILE", help="JSON of a network instead; - for stdin")
    to.add_argument("--dtype", default="float64", metavar="f32", help="dtype of the operands (float64)")
    to.add_argument("--dynamic", nargs="+", default=[], metavar="MODE", help="modes whose extent varies")
    to.add_argument("--conj", nargs="+", default=[], type=int, metavar="N", help="operands to conjugate")
    to.add_argument("--semiring", default="sum_product", help="sum_product, max_plus, ... (sum_product)")
    to.add_argument(
        "--optimize", default="auto", metavar="NAME", help="the search: auto, optimal, greedy, ..."
    )
    to.add_argument("--time-limit", type=float, metavar="S", help="seconds the search may take")
    to.add_argument("--memory-limit", metavar="BYTES", help="of all tensors alive at once, or max_input")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help of one width everywhere, so that it can be compared with what it was."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=28, width=100, **options)
