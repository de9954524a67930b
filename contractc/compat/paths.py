"""Paths between opt_einsum and contractc: a search for one, compiled code for the other, element limits."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from contractc.building import build, conj_and_constant, network_of, plan_of
from contractc.cost import priced
from contractc.executable import Executable
from contractc.machine import Target
from contractc.network import Tensor, TensorNetwork
from contractc.notation import parse
from contractc.operands import describe
from contractc.options import Options
from contractc.plans import Path, Plan
from contractc.search import search


def search_path(
    inputs: Sequence[Collection[Any]],
    output: Collection[Any],
    size_dict: dict[Any, int],
    memory_limit: int | None = None,
) -> list[tuple[int, ...]]:
    """Return the path that contractc's search finds, in linear form: a path function as opt_einsum has them.

    Args:
        inputs: the labels of each operand; output: those of the result; size_dict: the extent of each label.
        memory_limit: elements of the largest intermediate. A step whose result is larger is merged into the
            step that uses it.
    """
    modes = {label: m for m, label in enumerate(size_dict)}
    tensors = tuple(Tensor(tuple(sorted({modes[label] for label in term})), "float64") for term in inputs)
    wanted = tuple(sorted({modes[label] for label in output}))
    extents = tuple(int(n) for n in size_dict.values())
    plan = search(TensorNetwork(tensors, (wanted,), extents, "float64"))
    return (plan if memory_limit is None else merged(plan, memory_limit)).linear_path()


def linear_from_ssa(path: Sequence[Sequence[int]], count: int) -> list[tuple[int, ...]]:
    """Return the linear form, which `optimize=` takes, of an SSA path over `count` tensors.

    >>> linear_from_ssa([(0, 2), (1, 3)], 3)
    [(0, 2), (0, 1)]
    """
    alive, found = list(range(count)), []
    for s, ids in enumerate(path):
        found.append(tuple(sorted(alive.index(i) for i in ids)))
        alive = [i for i in alive if i not in ids] + [count + s]
    return found


def merged(plan: Plan, limit: int) -> Plan:
    """Return `plan` with each step that makes more than `limit` elements merged into the step that uses them.

    This is opt_einsum's way of keeping a limit: a merged step has three or more operands, no intermediates.
    """
    network, terms = plan.network, plan.terms()
    count = len(network.tensors)
    members: list[tuple[int, ...]] = [(k,) for k in range(count)]
    steps: list[tuple[int, ...]] = []
    for s, ids in enumerate(plan.path):
        merged = tuple(i for part in ids for i in members[part])
        if network.size(terms[count + s]) > limit and count + s not in plan.results:
            members.append(merged)
        else:
            members.append((count + len(steps),))
            steps.append(merged)
    return replace(plan, path=tuple(steps), results=tuple(members[i][0] for i in plan.results))


def pairwise(plan: Plan) -> Plan:
    """Return `plan` with each step of over two operands as pairwise steps, in the order the search finds."""
    network, terms = plan.network, plan.terms()
    count = len(network.tensors)
    ids = list(range(count))
    steps: list[tuple[int, ...]] = []
    for s, step in enumerate(plan.path):
        part: Path = (tuple(range(len(step))),)
        if len(step) > 2:
            tensors = tuple(Tensor(terms[i], network.dtype) for i in step)
            part = search(
                replace(network, tensors=tensors, outputs=(terms[count + s],), groups=(), forced=())
            ).path
        own = [ids[i] for i in step]
        for inner in part:
            own.append(count + len(steps))
            steps.append(tuple(own[i] for i in inner))
        ids.append(own[-1])
    return replace(plan, path=tuple(steps), results=tuple(ids[i] for i in plan.results))


def sliced_within(plan: Plan, limit: int) -> Plan:
    """Return `plan` with as many sliced modes as it takes to keep every intermediate within `limit` elements.

    The mode sliced next is the one of the largest intermediate that leaves the smallest largest one.
    """
    network = plan.network
    count = len(network.tensors)
    inner = [set(t) for i, t in enumerate(plan.terms()) if i >= count and i not in plan.results]
    sliced: list[int] = []

    def size(term: set[int], without: Collection[int]) -> int:
        return network.size(m for m in term if m not in without)

    while inner:
        largest = max(inner, key=lambda term: size(term, sliced))
        if size(largest, sliced) <= limit:
            break
        candidates = [m for m in sorted(largest) if m not in sliced and network.extents[m] > 1]
        most = {m: max(size(term, [*sliced, m]) for term in inner) for m in candidates}
        sliced.append(min(candidates, key=lambda m: (most[m], network.extents[m], m)))
    return priced(replace(plan, sliced=tuple(sliced)))


def unsearched(operands: int, library: str | None) -> list[tuple[int, ...]]:
    """Return the path of `optimize=False`: left to right in contractc, else (opt_einsum) all at once."""
    if library is None or operands == 1:
        return [tuple(range(operands))]
    return [(0, 1), *((0, k) for k in range(operands - 2, 0, -1))]


def text_and_path(contraction_list: Sequence[Any], operands: int) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """Return the text and the path of opt_einsum's list of contractions.

    Raises:
        ValueError: the path leaves operands over.
    """
    alive = list(range(operands))
    terms = [""] * operands
    path = []
    for s, (positions, _, einsum, *_rest) in enumerate(contraction_list):
        inputs, _, output = einsum.partition("->")
        for position, term in zip(positions, inputs.split(","), strict=True):
            i = alive.pop(position)
            if i < operands:
                terms[i] = term
        alive.append(operands + s)
        path.append(tuple(positions))
    if len(alive) != 1:
        raise ValueError(f"the path leaves {len(alive)} operands over")
    return with_letters(f"{','.join(terms)}->{output}"), tuple(path)


def with_letters(text: str) -> str:
    """Return `text` with all its symbols replaced, in their order, if contractc would refuse one of them.

    opt_einsum's `get_symbol` also gives out control and format characters, from the 1,397th symbol on. They
    become private-use characters, of which there are 65,000.
    """
    symbols = set(text) - set(",->. ")
    if text.isascii() or all(unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in symbols):
        return text
    return text.translate({ord(c): 0xF0000 + k for k, c in enumerate(sorted(symbols))})


def compiled(
    text: str,
    path: tuple[tuple[int, ...], ...],
    order: str,
    limit: int | None,
    arrays: Sequence[Any],
    fixed: Sequence[int],
    target: Target,
) -> Executable:
    """Return the code that contracts arrays like these along `path`, with intermediates within `limit`."""
    options = Options(path)
    operands = conj_and_constant([describe(x) for x in arrays], (), fixed)
    plan = plan_of(network_of(parse(text), operands, target, options), options)
    plan = replace(plan, search=order)
    if limit is not None:
        plan = sliced_within(pairwise(plan), limit)
    return build(plan, target, options, [arrays[k] for k in fixed])
