"""Paths from opt_einsum: by the name of its algorithm, or from one of its path optimizers."""

from __future__ import annotations

from typing import Any

from contractc.network import TensorNetwork
from contractc.plans import Path, ssa_from_linear


def opt_einsum_path(network: TensorNetwork, optimize: Any) -> tuple[Path, str]:
    """Return the path that opt_einsum's algorithm `optimize` finds, and its name.

    Args:
        optimize: a name, with or without `opt_einsum:` in front, or a callable with the signature of
            opt_einsum's path functions: (inputs, output, size_dict, memory_limit) -> linear path.

    Raises:
        ValueError: no algorithm has that name, or the path does not fit the network.
    """
    from opt_einsum import paths

    if isinstance(optimize, str):
        name = optimize.removeprefix("opt_einsum:")
        try:
            function = paths.get_path_fn(name)
        except KeyError:
            raise ValueError(f"no search is called {optimize!r:.60}") from None
        name = f"opt_einsum's {name}"
    elif callable(optimize):
        function, name = optimize, f"opt_einsum's {type(optimize).__name__}"
    else:
        raise ValueError(f"optimize={optimize!r:.60} is no name, path or path optimizer")
    symbols = [chr(0x4E00 + m) for m in range(len(network.extents))]
    inputs = [frozenset(symbols[m] for m in t.modes) for t in network.tensors]
    output = frozenset(symbols[m] for m in network.outputs[0])
    sizes = dict(zip(symbols, network.extents, strict=True))
    path = function(inputs, output, sizes, None)
    return ssa_from_linear(path, len(network.tensors)), name
