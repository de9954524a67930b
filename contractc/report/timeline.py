"""A plan over its steps, as one drawing: the contraction tree, the cost of each step, the memory alive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import log2

from contractc.plans import Plan, bytes_text, count_text, seconds_text
from contractc.report.steps import StepCost

WIDTH = 960
"""Pixels across that steps share, as long as each gets `NARROWEST`."""

NARROWEST, WIDEST = 1.8, 170.0
LEFT, RIGHT, TOP = 76, 40, 14
COST_HEIGHT, MEMORY_HEIGHT, GAP = 80, 90, 30
LABELLED = 10
"""So many of the most expensive steps get a label even where there is no room for all."""


def heat(share: float) -> str:
    """Return the class of colour for a step with this share of the plan's seconds."""
    return f"heat{sum(share >= bound for bound in (0.003, 0.01, 0.05, 0.2))}"


def timeline(plan: Plan, steps: Sequence[StepCost], text: Callable[[Sequence[int]], str]) -> str:
    """Return the drawing as SVG in a figure; `text` writes the modes of a term.

    Time goes from left to right, a step to a column. A line is a tensor from where it is made (a stub for an
    operand) to where it is contracted, the thicker the larger it is. Where lines meet, a disc is the step.
    """
    count = len(plan.network.tensors)
    dx = min(WIDEST, max(NARROWEST, WIDTH / max(1, len(steps))))
    spacing = min(24.0, max(0.8, 420 / max(1, count)))
    places = _places(plan, spacing)
    tree_height = max(places.values(), default=0.0) + spacing / 2
    width = LEFT + dx * len(steps) + RIGHT
    total = sum(step.seconds for step in steps) or 1.0
    parts = _tree(plan, steps, text, places, dx, spacing, total)
    y = TOP + tree_height + GAP
    parts += _bars(steps, y, dx, total)
    y += COST_HEIGHT + GAP
    parts += _memory(steps, y, dx)
    y += MEMORY_HEIGHT
    every = max(1, round(len(steps) / max(1, dx * len(steps) / 90)))
    for s in range(0, len(steps), every):
        parts.append(f'<text x="{_x(s, dx):.1f}" y="{y + 16:.1f}" text-anchor="middle">%{count + s}</text>')
    height = y + 26
    return (
        f'<figure><div class="scroll"><svg width="{width:.0f}" height="{height:.0f}" role="img" '
        f'aria-label="contraction tree, cost and memory by step">{"".join(parts)}</svg></div></figure>'
    )


def _x(s: int, dx: float) -> float:
    return LEFT + (s + 0.5) * dx


def _places(plan: Plan, spacing: float) -> dict[int, float]:
    """Return the height of every id: leaves of one subtree are neighbours, a step is between its inputs."""
    count = len(plan.network.tensors)
    places: dict[int, float] = {}
    todo = [(result, False) for result in reversed(plan.results)]
    leaves = 0
    while todo:
        i, ready = todo.pop()
        if i in places:
            continue
        if i < count:
            places[i] = (leaves + 0.5) * spacing
            leaves += 1
        elif ready:
            inputs = [places[j] for j in plan.path[i - count]]
            places[i] = sum(inputs) / len(inputs)
        else:
            todo.append((i, True))
            todo += [(j, False) for j in reversed(plan.path[i - count])]
    return places


def _tree(
    plan: Plan,
    steps: Sequence[StepCost],
    text: Callable[[Sequence[int]], str],
    places: dict[int, float],
    dx: float,
    spacing: float,
    total: float,
) -> list[str]:
    count = len(plan.network.tensors)
    network = plan.network
    sizes = {k: network.size(t.modes) for k, t in enumerate(network.tensors)} | {
        s.number: s.size for s in steps
    }
    thickest = max(2.5, min(7.0, 0.45 * spacing))
    largest = log2(max(2, *sizes.values()))
    roomy = dx >= 60 and spacing >= 10
    stub = min(0.55 * dx, 90.0)
    wires, discs, labels = [], [], []
    for s, step in enumerate(steps):
        if step.number not in places:
            continue
        x, y = _x(s, dx), TOP + places[step.number]
        for i in step.ids:
            yi = TOP + places[i]
            start = _x(i - count, dx) if i >= count else x - stub
            thickness = 0.6 + (thickest - 0.6) * max(0.0, log2(max(1, sizes[i]))) / largest
            wires.append(
                f'<path class="wire" stroke-width="{thickness:.1f}" d="M{start:.1f} {yi:.1f}H{x:.1f}V{y:.1f}"/>'
            )
            if i < count and roomy:
                name = _cut(f"%{i} {text(network.tensors[i].modes)}", stub)
                labels.append(f'<text x="{start:.1f}" y="{yi - 4:.1f}">{escape(name)}</text>')
        share = step.seconds / total
        radius = min(0.5 * max(dx, 8), 2 + 11 * share**0.5)
        title = (
            f"%{step.number} = {','.join(map(text, step.terms))}->{text(step.out)}: {seconds_text(step.seconds)}, "
            f"{100 * share:.1f} %, {count_text(step.flops)} flops, {count_text(step.size)} elements"
        )
        discs.append(
            f'<a href="#s{step.number}"><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{heat(share)}">'
            f"<title>{escape(title)}</title></circle></a>"
        )
        if roomy:
            name = _cut(f"%{step.number} {text(step.out)}", dx - radius)
            labels.append(f'<text class="ink" x="{x + radius + 3:.1f}" y="{y - 4:.1f}">{escape(name)}</text>')
    if not roomy:
        heaviest = sorted(steps, key=lambda step: -step.seconds)[:LABELLED]
        labels += _spread(
            [(_x(step.number - count, dx), TOP + places[step.number], f"%{step.number}") for step in heaviest]
        )
    return wires + discs + labels


def _spread(wanted: Sequence[tuple[float, float, str]]) -> list[str]:
    """Return labels (x, y, text), those left out that would cover one before them."""
    taken: list[tuple[float, float]] = []
    found = []
    for x, y, name in wanted:
        if all(abs(x - a) > 32 or abs(y - b) > 12 for a, b in taken):
            taken.append((x, y))
            found.append(f'<text class="ink" x="{x + 8:.1f}" y="{y - 5:.1f}">{escape(name)}</text>')
    return found


def _cut(name: str, pixels: float) -> str:
    most = max(3, int(pixels / 6))
    return name if len(name) <= most else name[: most - 1] + "…"


def _bars(steps: Sequence[StepCost], top: float, dx: float, total: float) -> list[str]:
    most = max((step.seconds for step in steps), default=0.0) or 1.0
    bottom = top + COST_HEIGHT
    parts = [
        f'<text class="ink" x="4" y="{top - 8:.1f}">seconds of each step</text>',
        *_scale(top, bottom, len(steps), dx, seconds_text(most)),
    ]
    bar = max(1.0, dx * 0.7 if dx < 30 else 22)
    for s, step in enumerate(steps):
        height = COST_HEIGHT * step.seconds / most
        share = step.seconds / total
        parts.append(
            f'<rect x="{_x(s, dx) - bar / 2:.1f}" y="{bottom - height:.1f}" width="{bar:.1f}" height="{height:.2f}" '
            f'class="{heat(share)}"><title>%{step.number}: {seconds_text(step.seconds)}, {100 * share:.1f} %</title>'
            "</rect>"
        )
    return parts


def _memory(steps: Sequence[StepCost], top: float, dx: float) -> list[str]:
    most = max((step.alive for step in steps), default=0) or 1
    bottom = top + MEMORY_HEIGHT
    points = []
    for s, step in enumerate(steps):
        y = bottom - MEMORY_HEIGHT * step.alive / most
        points += [f"{LEFT + s * dx:.1f},{y:.1f}", f"{LEFT + (s + 1) * dx:.1f},{y:.1f}"]
    line = " ".join(points)
    end = LEFT + len(steps) * dx
    highest = max(range(len(steps)), key=lambda s: steps[s].alive, default=0)
    parts = [
        f'<text class="ink" x="4" y="{top - 8:.1f}">memory alive, with operands and copies</text>',
        *_scale(top, bottom, len(steps), dx, bytes_text(most)),
        f'<polygon points="{LEFT},{bottom:.1f} {line} {end:.1f},{bottom:.1f}" style="fill: var(--area)"/>',
        f'<polyline points="{line}" style="fill: none; stroke: var(--accent); stroke-width: 1.5"/>',
    ]
    if len(steps) > 1:
        x, late = _x(highest, dx), highest > len(steps) / 2
        parts.append(
            f'<circle cx="{x:.1f}" cy="{top:.1f}" r="3" style="fill: var(--accent)"/><text class="ink" '
            f'x="{x - 6 if late else x + 6:.1f}" y="{top - 6:.1f}" text-anchor="{"end" if late else "start"}">'
            f"peak in %{steps[highest].number}</text>"
        )
    return parts


def _scale(top: float, bottom: float, count: int, dx: float, most: str) -> list[str]:
    end = LEFT + count * dx
    return [
        f'<line class="grid" x1="{LEFT}" x2="{end:.1f}" y1="{top:.1f}" y2="{top:.1f}"/>',
        f'<line class="axis" x1="{LEFT}" x2="{end:.1f}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>',
        f'<text x="{LEFT - 5}" y="{top + 4:.1f}" text-anchor="end">{escape(most)}</text>',
        f'<text x="{LEFT - 5}" y="{bottom:.1f}" text-anchor="end">0</text>',
    ]
