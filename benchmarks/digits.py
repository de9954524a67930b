"""Handwritten digits: a dense classifier and the same with factorized weights, trained side by side.

    python benchmarks/digits.py [--epochs 60] [--seeds 5]

scikit-learn's digits (1797 images of 8x8 pixels, from the UCI repository), 1437 to train with and 360 to test with,
another split for each seed. Every model is 64 -> 512 -> 512 -> 10 with ReLU; the factorized ones hold all three weights
as factors. Lines go to benchmarks/results/digits.jsonl, the learning curves to docs/pictures/digits.svg. The exit
status is 1 if a factorized model is more than a point of accuracy below the dense one in the mean over the seeds, or
has more than a tenth of its parameters.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from contractc.nn import FactorizedLinear

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "digits.jsonl"
PICTURE = ROOT / "docs" / "pictures" / "digits.svg"

TEST = 360
BATCH = 64
RATE = 8e-3


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def factorized(format: str, ranks: tuple[int, int, int], splits: Sequence[Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        sizes = ((64, 512), (512, 512), (512, 10))
        layers = [
            FactorizedLinear(n, m, format=format if k < 2 else "low_rank", rank=r, split=split)
            for k, ((n, m), r, split) in enumerate(zip(sizes, ranks, splits, strict=True))
        ]
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    return make


MODELS: dict[str, Callable[[], nn.Module]] = {
    "dense": dense,
    "TT": factorized("tt_matrix", (14, 14, 8), (((8, 8, 8), (4, 4, 4)), ((8, 8, 8), (8, 8, 8)), None)),
    "CP": factorized("cp", (128, 128, 8), (((32, 16), (8, 8)), ((32, 16), (16, 32)), None)),
    "Monarch": factorized("monarch", (1, 1, 8), (((16, 32), (8, 8)), ((16, 32), (32, 16)), None)),
}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def split_of(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images and labels, test images and labels."""
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, test = order[TEST:], order[:TEST]
    return images[train], labels[train], images[test], labels[test]


def trained(make: Callable[[], nn.Module], seed: int, epochs: int) -> tuple[int, list[float]]:
    """Return the number of parameters, and the accuracy on the test images after each epoch."""
    torch.manual_seed(seed)
    images, labels, test_images, test_labels = split_of(seed)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    curve = []
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH):  # type: ignore[no-untyped-call]
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            curve.append(float((model(test_images).argmax(1) == test_labels).double().mean()))
    return parameters(model), curve


COLORS = ("#444444", "#0072b2", "#d55e00", "#009e73")


def picture(curves: dict[str, list[float]], sizes: dict[str, int]) -> str:
    """Return the mean learning curves as SVG."""
    width, height, left, top, low = 640, 360, 60, 20, 0.7
    epochs = len(next(iter(curves.values())))

    def at(epoch: int, accuracy: float) -> str:
        x = left + (width - left - 150) * epoch / max(epochs - 1, 1)
        y = top + (height - top - 50) * (1 - (max(accuracy, low) - low) / (1 - low))
        return f"{x:.1f},{y:.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        "<title>Accuracy on test images after each epoch, mean over the seeds</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for percent in range(70, 101, 5):
        (x0, y0), (x1, _) = (at(e, percent / 100).split(",") for e in (0, epochs - 1))
        lines.append(f'<path d="M{x0} {y0}H{x1}" stroke="#dddddd"/>')
        lines.append(f'<text x="{left - 8}" y="{float(y0) + 4:.1f}" text-anchor="end">{percent} %</text>')
    for epoch in range(0, epochs, max(1, epochs // 4)):
        x, y = at(epoch, low).split(",")
        lines.append(f'<text x="{x}" y="{float(y) + 20:.1f}" text-anchor="middle">{epoch + 1}</text>')
    x, y = at((epochs - 1) // 2, low).split(",")
    lines.append(f'<text x="{x}" y="{float(y) + 40:.1f}" text-anchor="middle">epoch</text>')
    for k, (name, curve) in enumerate(curves.items()):
        color = COLORS[k % len(COLORS)]
        path = " ".join(at(e, a) for e, a in enumerate(curve))
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"/>')
        right, down = width - 140, 40 + 22 * k
        lines.append(f'<path d="M{right} {down - 4}h18" stroke="{color}" stroke-width="3"/>')
        lines.append(f'<text x="{right + 24}" y="{down}">{name}, {sizes[name]:,}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    """Train everything, write lines and picture, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    curves, sizes = {}, {}
    for name, make in MODELS.items():
        runs = [trained(make, seed, options.epochs) for seed in range(options.seeds)]
        sizes[name] = runs[0][0]
        last = [curve[-1] for _, curve in runs]
        curves[name] = [mean(values) for values in zip(*(curve for _, curve in runs), strict=True)]
        spread = stdev(last) if len(last) > 1 else 0.0
        lines.append(
            {
                "model": name,
                "parameters": sizes[name],
                "accuracy": [round(a, 4) for a in last],
                "mean": round(mean(last), 4),
                "deviation": round(spread, 4),
                "epochs": options.epochs,
                "torch": torch.__version__,
            }
        )
        share = sizes["dense"] / sizes[name]
        print(
            f"{name:8} {sizes[name]:7} parameters (1/{share:.1f})  {mean(last):.2%} +- {spread:.2%}",
            flush=True,
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(curves, sizes))
    bad = [
        line["model"]
        for line in lines[1:]
        if line["mean"] < lines[0]["mean"] - 0.01 or 10 * line["parameters"] > sizes["dense"]
    ]
    print(
        f"below the claim: {', '.join(bad)}"
        if bad
        else "each within a point of dense, with a tenth of its parameters"
    )
    return bool(bad)


if __name__ == "__main__":
    raise SystemExit(main())
