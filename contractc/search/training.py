"""Plans of a value and its gradients: one tree up and down, chosen by what both ways cost."""

from __future__ import annotations

from collections.abc import Sequence

from contractc.cost import Costs, costs, priced
from contractc.network import TensorNetwork
from contractc.plans import Path, Plan
from contractc.search.sweep import gradient_path, with_cotangent


def gradient_plan(network: TensorNetwork, tree: Plan, wanted: Sequence[int], value: bool = True) -> Plan:
    """Return the plan of the output of `network` and of its gradients by the tensors `wanted`.

    Args:
        network: with one output.
        tree: a plan for it; its path is taken, not its slices.
        wanted: numbers of tensors.
        value: whether the output itself comes first.
    """
    search = f"{tree.search}, gradients from its tree"
    joint = with_cotangent(network, wanted, value)
    path, results = gradient_path(network, tree.path, wanted, value)
    return priced(Plan(joint, path, results, (), tree.choices, search, alternatives=tree.alternatives))


def training_costs(network: TensorNetwork, path: Path, results: Sequence[int]) -> Costs:
    """Return what the one output of `network` costs together with its gradients by all trained tensors.

    What is kept between the two is alive until its gradient step, so it counts in the peak, and as traffic twice.
    """
    wanted = [k for k, t in enumerate(network.tensors) if t.trained]
    if network.semiring != "sum_product" or not wanted:
        return costs(network, path, results)
    joint = with_cotangent(network, wanted)
    return costs(joint, *gradient_path(network, path, wanted))
