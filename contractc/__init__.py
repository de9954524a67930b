"""contractc compiles einsum expressions over tensor networks."""

from contractc.api import compile, contract, einsum, einsum_path, plan
from contractc.errors import EinsumError, OperandError, ResourceLimitError, UnsupportedError
from contractc.executable import Executable, explain
from contractc.machine import Target
from contractc.plans import Plan
from contractc.programs import Program

__version__ = "0.1.0"

__all__ = [
    "EinsumError",
    "Executable",
    "OperandError",
    "Plan",
    "Program",
    "ResourceLimitError",
    "Target",
    "UnsupportedError",
    "compile",
    "contract",
    "einsum",
    "einsum_path",
    "explain",
    "plan",
]
