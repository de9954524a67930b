"""Plans of a value and its gradients: one tree up and down, chosen by what both ways cost."""

from __future__ import annotations

from collections.abc import Sequence

from contractc.cost import priced
from contractc.network import TensorNetwork
from contractc.plans import Plan
from contractc.search.sweep import gradient_path, with_cotangent


def gradient_plan(network: TensorNetwork, tree: Plan, wanted: Sequence[int], value: bool = True) -> Plan:
    """Return the plan of the output of `network` and of its gradients by the tensors `wanted`.

    Args:
        network: with one output.
        tree: a plan for it; its path is taken, not its slices.
        wanted: numbers of tensors.
        value: whether the output itself comes first.
    """
    joint = with_cotangent(network, wanted, value)
    path, results = gradient_path(network, tree.path, wanted, value)
    return priced(Plan(joint, path, results, (), tree.choices, f"{tree.search}, gradients from its tree"))
