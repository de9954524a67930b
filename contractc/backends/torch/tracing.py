"""What torch.compile is told of functions; importing this loads its tracer, which takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable  # type: ignore[untyped-decorator]
def untraced(function: Callable[..., Any], *given: Any) -> Any:
    """Return `function(*given)`; torch.compile breaks its graph here and runs it."""
    return function(*given)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def keep_whole(module: str, name: str) -> None:
    """Make torch.compile put calls of a function into its graph as they are, without looking inside.

    The function then runs when the graph is lowered to aten calls, on fake tensors, and not any more when the
    compiled code runs. While torch.compile traces, this runs at once instead of being traced itself.
    """
    torch.compiler.allow_in_graph(getattr(sys.modules[module], name))  # type: ignore[no-untyped-call]
