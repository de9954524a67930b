"""Plans to and from cotengra's contraction trees, and contractc's search as a preset of cotengra and of quimb.

Needs cotengra; nothing else in contractc imports it.
"""

from __future__ import annotations

from typing import Any

from contractc.compat.paths import search_path
from contractc.cost import priced
from contractc.network import Tensor, TensorNetwork
from contractc.plans import Plan
from contractc.serial import checked


def register(name: str = "contractc") -> None:
    """Make `name` an optimizer of cotengra: `optimize=name` there, and in libraries that plan with it."""
    from cotengra import register_preset

    register_preset(name, search_path)


def to_tree(plan: Plan) -> Any:
    """Return cotengra's ContractionTree of a plan with one output, sliced as the plan is.

    Raises:
        ValueError: several outputs, a mode repeated in the output, or steps of three and more, which a tree of
            cotengra cannot have.
    """
    from cotengra import ContractionTree, get_symbol

    network = plan.network
    if len(network.outputs) != 1 or len(set(network.outputs[0])) != len(network.outputs[0]):
        raise ValueError("a tree of cotengra has one output, with each mode once")
    if any(len(ids) != 2 for ids in plan.path):
        raise ValueError("a tree of cotengra has pairwise steps only")
    names = [get_symbol(m) for m in range(len(network.extents))]
    inputs = [tuple(dict.fromkeys(names[m] for m in t.modes)) for t in network.tensors]
    output = tuple(names[m] for m in network.outputs[0])
    sizes = {names[m]: network.extents[m] for t in network.tensors for m in t.modes}
    tree = ContractionTree.from_path(inputs, output, sizes, ssa_path=plan.path)
    for m in plan.sliced:
        tree.remove_ind_(names[m])
    return tree


def from_tree(tree: Any, dtype: str = "float64") -> Plan:
    """Return the plan of cotengra's `tree`: its order and its slices, priced for operands of `dtype`."""
    labels = tuple(tree.size_dict)
    mode = {label: m for m, label in enumerate(labels)}
    tensors = tuple(Tensor(tuple(mode[x] for x in term), dtype) for term in tree.inputs)
    output = tuple(mode[x] for x in tree.output)
    extents = tuple(int(tree.size_dict[x]) for x in labels)
    network = TensorNetwork(tensors, (output,), extents, dtype, labels=tuple(map(str, labels)))
    path = tuple(tuple(sorted(ids)) for ids in tree.get_ssa_path()) or ((0,),)
    sliced = tuple(sorted(mode[x] for x in tree.sliced_inds))
    plan = Plan(network, path, (len(tensors) + len(path) - 1,), sliced, (), "cotengra")
    return priced(checked(plan))
