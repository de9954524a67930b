"""Several outputs: each is searched alone, and equal steps are shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contractc.network import TensorNetwork
from contractc.plans import Path, kept_terms


def single_output(network: TensorNetwork, output: int) -> TensorNetwork:
    """Return `network` with one of its outputs only."""
    return network if len(network.outputs) == 1 else replace(network, outputs=(network.outputs[output],))


def join_outputs(network: TensorNetwork, paths: Sequence[Path]) -> tuple[Path, tuple[int, ...]]:
    """Return one SSA path for all outputs, and their ids; steps that are equal in all respects are shared.

    A step is shared if it contracts the same ids and keeps the same modes. The last step of each output is
    its own.
    """
    count = len(network.tensors)
    if len(paths) == 1:
        return paths[0], (count + len(paths[0]) - 1,)
    steps: list[tuple[int, ...]] = []
    results = []
    seen: dict[object, int] = {}
    for output, path in enumerate(paths):
        alone = single_output(network, output)
        terms = kept_terms(alone, path, (count + len(path) - 1,))
        ids = list(range(count))
        for s, step in enumerate(path):
            mine = tuple(sorted(ids[i] for i in step))
            last = s == len(path) - 1
            key = (output, s) if last else (mine, frozenset(terms[count + s]))
            if key not in seen:
                seen[key] = count + len(steps)
                steps.append(mine)
            ids.append(seen[key])
        results.append(ids[-1])
    return tuple(steps), tuple(results)
