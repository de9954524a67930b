"""The page of a plan: totals, the contraction tree with cost and memory, slices, and every step with its kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log2
from os import PathLike
from pathlib import Path

from contractc.executable import Executable
from contractc.network import typed
from contractc.plans import Plan, bytes_text, count_text, seconds_text
from contractc.report.page import document, key, table, tiles
from contractc.report.steps import StepCost, compiled, costs_of_steps, runs_as
from contractc.report.timeline import heat, timeline

OPEN_STEPS = 40
"""With more steps the table of all of them is folded, and the most expensive ones come first in one of their own."""

MOST_MODES = 12
"""A term of more modes is written as their number in tables; the whole term shows when it is pointed at."""

HEAVIEST = 12


def report(what: Plan | Executable, path: str | PathLike[str]) -> Path:
    """Return the path of the page about a plan, or about an executable and its plan, after writing it.

    One HTML file that needs no other: the contraction tree, what each step costs, the memory over time, slices, what
    every step runs as and why. A plan is compiled for NumPy to tell that; an executable tells it for its target.
    """
    target = Path(path)
    target.write_text(plan_page(what), encoding="utf-8")
    return target


def plan_page(what: Plan | Executable) -> str:
    """Return the HTML of `report`."""
    plan = what.plan if isinstance(what, Executable) else what
    executable = what if isinstance(what, Executable) else compiled(plan)
    steps = costs_of_steps(plan)
    notes = {} if isinstance(executable, str) else runs_as(plan, executable)
    tensors, count = len(plan.network.tensors), len(plan.path)
    title = f"Plan: {tensors} tensor{'s' * (tensors != 1)}, {count} step{'s' * (count != 1)}"
    body = [
        f"<h1>{title}</h1>",
        f'<p class="mono long">{escape(_shortened(_expression(plan)))}</p>',
        f'<p class="soft">{escape(_about(plan, executable))}</p>',
        tiles(_totals(plan, steps)),
        "<h2>Tree, cost, memory</h2>",
        timeline(plan, steps, lambda term: written(plan, term)),
        key(
            (f"heat{k}", name)
            for k, name in enumerate(
                (
                    "under 0.3 % of the predicted seconds",
                    "0.3 to 1 %",
                    "1 to 5 %",
                    "5 to 20 %",
                    "20 % and more",
                )
            )
        ),
        '<p class="soft">Steps run from left to right. A line is a tensor, from the step that makes it to the step '
        "that contracts it, and the thicker the larger it is; a disc is a step. Tap a disc to see the step below.</p>",
        *_slices(plan, executable),
        *_step_tables(plan, steps, notes),
        *_tensors(plan),
    ]
    return document(title, body)


def written(plan: Plan, term: Sequence[int]) -> str:
    """Return the modes of a term in the user's labels, with blanks between them if a label has several letters."""
    labels = [plan.network.label(m) for m in term]
    return ("" if all(len(label) == 1 for label in labels) else " ").join(labels)


def _counted(plan: Plan, term: Sequence[int]) -> str:
    """Return the modes of a term, or how many they are where nobody would read them."""
    return written(plan, term) if len(term) <= MOST_MODES else f"({len(term)} modes)"


def _type(plan: Plan, dtype: str, term: tuple[int, ...]) -> str:
    """Return the type of a tensor for a table: with its modes, or how many they are; all of them when pointed at."""
    whole = typed(dtype, term, plan.network)
    short = whole if len(term) <= MOST_MODES else f"{whole.partition('[')[0]}[{len(term)} modes]"
    return f'<span class="mono" title="{escape(whole)}">{escape(short)}</span>'


def _expression(plan: Plan) -> str:
    inputs = ", ".join(written(plan, t.modes) or "scalar" for t in plan.network.tensors)
    return f"{inputs} -> {', '.join(written(plan, t) or 'scalar' for t in plan.network.outputs)}"


def _shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def _about(plan: Plan, executable: Executable | str) -> str:
    runs = executable if isinstance(executable, str) else f"compiled for {executable.target}"
    return f"Order found by {plan.search or 'hand'}; {plan.network.semiring}, {plan.network.dtype}; {runs}."


def _totals(plan: Plan, steps: Sequence[StepCost]) -> list[tuple[str, str]]:
    largest = max((step.size for step in steps), default=1)
    pairs = [
        (seconds_text(plan.seconds), "predicted"),
        (count_text(plan.flops), "floating-point operations"),
        (bytes_text(plan.traffic), "traffic"),
        (bytes_text(plan.peak), "peak memory, with copies"),
        (f"2^{log2(largest):.1f}" if largest > 1 else "1", "elements of the largest result"),
    ]
    if plan.sliced:
        pairs.append((count_text(plan.network.size(plan.sliced)), "slices"))
    return pairs


def _slices(plan: Plan, executable: Executable | str) -> list[str]:
    choices = [
        f"<li>factors {escape(' '.join(f'%{k}' for k in group))}: {escape(choice)}</li>"
        for group, choice in zip(plan.network.groups, plan.choices, strict=False)
    ]
    parts = ["<h2>Factorized operands</h2>", "<ul>", *choices, "</ul>"] if choices else []
    if plan.sliced:
        names = ", ".join(f"{plan.network.label(m)} = {plan.network.extents[m]}" for m in plan.sliced)
        names = _shortened(names, 160)
        slices = count_text(plan.network.size(plan.sliced))
        parts += [
            "<h2>Slices</h2>",
            f"<p>There are {slices} slices, one for every position of <code>{escape(names)}</code>; a step runs once "
            "for all slices that give it the same operands. Results are added up, or laid side by side where the "
            "mode is open. Sizes and memory are those of one slice, operations and seconds those of all.</p>",
        ]
    return parts


def _step_tables(plan: Plan, steps: Sequence[StepCost], notes: Mapping[int, str]) -> list[str]:
    heads = ("step", "share", "einsum", "result", "flops", "seconds", "alive", "runs as")
    kinds = ("n", "", "full", "full", "n", "n", "n", "full")
    total = sum(step.seconds for step in steps) or 1.0

    def row(step: StepCost, name: str) -> tuple[str, list[str]]:
        share = step.seconds / total
        einsum = f"{','.join(written(plan, t) for t in step.terms)}->{written(plan, step.out)}"
        short = f"{', '.join(_counted(plan, t) for t in step.terms)} -> {_counted(plan, step.out)}"
        long = any(len(t) > MOST_MODES for t in (*step.terms, step.out))
        operands = " ".join(f"%{i}" for i in step.ids)
        bar = (
            f'<span class="share {heat(share)}" style="width: {90 * share:.1f}px; background: '
            f'var(--{heat(share)})"></span> <span class="once">{100 * share:.1f} %</span>'
        )
        return name, [
            f'<span class="mono">%{step.number}</span>',
            bar,
            f'<span class="mono" title="{escape(einsum)}">{escape(short if long else einsum)}</span> '
            f'<span class="soft">of {operands}</span>',
            _type(plan, plan.network.dtype, step.out),
            count_text(step.flops),
            seconds_text(step.seconds),
            bytes_text(step.alive),
            f'<span class="mono">{escape(notes.get(step.number, "not compiled"))}</span>',
        ]

    every = table(heads, (row(step, f"s{step.number}") for step in steps), kinds, cards=True)
    if len(steps) <= OPEN_STEPS:
        return ["<h2>Steps</h2>", every]
    heaviest = sorted(steps, key=lambda step: -step.seconds)[:HEAVIEST]
    some = table(heads, (row(step, "") for step in heaviest), kinds, cards=True)
    return [
        "<h2>The most expensive steps</h2>",
        some,
        f"<h2>All steps</h2><details open><summary>{len(steps)} steps in order</summary>{every}</details>",
    ]


def _tensors(plan: Plan) -> list[str]:
    network = plan.network
    rows = []
    for k, tensor in enumerate(network.tensors):
        words = [word for word, on in (("constant", tensor.constant), ("conjugated", tensor.conj)) if on]
        words += [f"factor of operand group {g}" for g, members in enumerate(network.groups) if k in members]
        size = network.size(tensor.modes)
        cells = [
            f'<span class="mono">%{k}</span>',
            _type(plan, tensor.dtype, tensor.modes),
            count_text(size),
            escape(", ".join(words)),
        ]
        rows.append(("", cells))
    body = table(("tensor", "type", "elements", ""), rows, ("", "full", "n", ""), cards=True)
    fold = "" if len(rows) > OPEN_STEPS else " open"
    return ["<h2>Tensors</h2>", f"<details{fold}><summary>{len(rows)} tensors</summary>{body}</details>"]
