"""Factorized layers on torch, CPU, one thread: contractc beside the dense layer, pairwise evaluation, TensorLy-Torch.

    python benchmarks/factorized.py [--rounds 20] [--budget 20] [--only TEXT]

Forward (inference: weights are constants, nothing requires a gradient) and forward with backward (gradients of the
input and of every factor; of the dense layer: of the input and the dense weight). Times are medians of interleaved
rounds in one process; a ratio is the other's time over contractc's, as the median of the paired ratios with its 95 %
interval. Results are checked against the dense layer in float64. The peak is that of a call in a process of its own:
inputs (and the cotangent) and what memory grew by, after calls that make the code, beside what is predicted of the
programs that run. Lines go to benchmarks/results/factorized.jsonl as they are measured.

Where the expression only forms the dense array (`i->i`) the dense column is what torch takes to hand one over: it is
printed, but no ratio is taken, as nothing is computed and no factor gets a gradient.

Of the factorized workloads whose sizes are the systems' own, those that gather rows by numbers (DAIN, Strivec) or hold
a sparse data matrix (moments of documents) are no contractions of the operands here.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import opt_einsum
import torch

import contractc
from contractc import formats
from contractc.bench.measure import interleaved
from contractc.bench.stats import Ratio, geometric_mean, paired
from contractc.executable import Executable
from contractc.formats import Factorized
from contractc.hosted import REMARK, for_numpy
from contractc.machine import Target, processor
from contractc.operands import flattened
from contractc.programs import Contract
from contractc.providers import loops
from contractc.providers.memory import release
from contractc.training import CALLS_BEFORE, peak_in_training

RESULTS = Path(__file__).parent / "results" / "factorized.jsonl"
LARGE = 2**28
"""Dense operands with more elements than this are not formed."""

Tensors = list[torch.Tensor]
Way = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Case:
    """An expression over dense inputs, given by their shapes, and weights held as factors.

    `layer` makes TensorLy-Torch's layer of the same sizes, where it has one; `origin` says whose sizes these are.
    """

    name: str
    expression: str
    operands: tuple[Any, ...]
    origin: str
    layer: Callable[[], torch.nn.Module] | None = None
    reshaped: tuple[int, ...] = ()

    @property
    def weights(self) -> list[int]:
        """Return the numbers of the operands that are held as factors."""
        return [k for k, x in enumerate(self.operands) if isinstance(x, Factorized)]


def drawn(*shape: int) -> torch.Tensor:
    scale: float = shape[-1] ** -0.5
    return torch.randn(shape) * scale


def train(rows: Sequence[int], columns: Sequence[int], rank: int) -> Factorized:
    d = len(rows)
    ranks = [1, *[rank] * (d - 1), 1]
    return formats.tt_matrix([drawn(ranks[k], rows[k], columns[k], ranks[k + 1]) for k in range(d)])


def through(rows: Sequence[int], columns: Sequence[int], rank: int) -> Factorized:
    """Return the train through row modes, then column modes, that adapters use."""
    modes = [*rows, *columns]
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    cores = [drawn(ranks[k], n, ranks[k + 1]) for k, n in enumerate(modes)]
    return formats.tt(cores, split=(tuple(rows), tuple(columns)))


def network(text: str, *factors: torch.Tensor) -> Factorized:
    """Return the operand that an expression makes of its factors."""
    terms, _, out = text.partition("->")
    return formats.network(factors, terms.split(","), tuple(out))


def linear(name: str, weight: Factorized, batch: int, origin: str, **more: Any) -> Case:
    return Case(f"{name}, batch {batch}", "bi,oi->bo", ((batch, weight.shape[1]), weight), origin, **more)


def peer(kind: str, *sizes: Any, **options: Any) -> Callable[[], torch.nn.Module]:
    """Return a function that makes a layer of TensorLy-Torch."""

    def make() -> torch.nn.Module:
        import tensorly
        import tltorch

        tensorly.set_backend("pytorch")
        layer: torch.nn.Module = getattr(tltorch, kind)(*sizes, bias=False, **options)
        return layer

    return make


def cases() -> list[Case]:
    """Return the layers, with whose sizes they have."""
    vgg_in, vgg_out = (2, 7, 8, 8, 7, 4), (4,) * 6
    blocktt = {"factorization": "BlockTT"}
    vgg = peer("FactorizedLinear", vgg_in, vgg_out, rank=4, **blocktt)
    small = (4, 8, 8, 4)
    cp = formats.cp([drawn(n, 64) for n in (32, 4, 4, 8, 8, 8)], drawn(64), split=((32, 4, 4), (8, 8, 8)))
    ranks = (14, 2, 2, 4, 4, 4)
    tucker = formats.tucker(
        drawn(*ranks),
        [drawn(n, r) for n, r in zip((32, 4, 4, 8, 8, 8), ranks, strict=True)],
        split=((32, 4, 4), (8, 8, 8)),
    )
    regression = formats.tucker(
        drawn(200, 6, 6, 200), [drawn(2048, 200), drawn(7, 6), drawn(7, 6), drawn(1000, 200)]
    )
    adazeta = formats.tt(
        [
            drawn(8, a, n, b)
            for a, n, b in zip((1, 5, 5, 5, 5, 5), (8, 8, 12, 12, 8, 8), (5, 5, 5, 5, 5, 1), strict=True)
        ],
        split=((8, 8, 12), (12, 8, 8)),
        batch=1,
    )
    spectral = formats.tucker(
        torch.complex(drawn(32, 32, 24, 12), drawn(32, 32, 24, 12)),
        [torch.complex(drawn(n, r), drawn(n, r)) for n, r in ((64, 32), (64, 32), (64, 24), (33, 12))],
    )
    masked = network(
        "rstu,r,s,t,u,cr,hs,wt,ou->chwo",
        drawn(200, 6, 6, 200),
        *(torch.bernoulli(torch.full((r,), 0.9)) for r in (200, 6, 6, 200)),
        *(drawn(n, r) for n, r in ((2048, 200), (7, 6), (7, 6), (1000, 200))),
    )
    little = formats.tucker(drawn(3, 3, 3), [drawn(5, 3) for _ in range(3)])
    ten = (10,) * 10
    form = formats.tt_matrix(
        [drawn(*s).double() for s in ((1, 10, 10, 10), *[(10, 10, 10, 10)] * 8, (10, 10, 10, 1))]
    )

    def side() -> Factorized:
        cores = [drawn(*s).double() for s in ((1, 10, 10), *[(10, 10, 10)] * 8, (10, 10, 1))]
        return formats.tt(cores, split=(ten,))

    irreps = network("ija,jkb,ikd->abd", drawn(25, 25, 25), drawn(25, 25, 25), drawn(25, 25, 81))
    aflora = formats.low_rank(drawn(1024, 4), drawn(4, 1024), drawn(4), drawn(1024))
    table = formats.cp([drawn(25, 153), drawn(25, 153), drawn(81, 153)], drawn(153))
    return [
        *(
            linear("TT 25088 -> 4096 rank 4", train(vgg_out, vgg_in, 4), n, "system", layer=vgg)
            for n in (1, 100, 1000)
        ),
        linear(
            "TT matrix 1024 rank 8",
            train(small, small, 8),
            256,
            "issue",
            layer=peer("FactorizedLinear", small, small, rank=8, **blocktt),
        ),
        linear("Monarch 1024", formats.monarch(drawn(1, 32, 32, 32), drawn(1, 32, 32, 32)), 256, "issue"),
        linear(
            "block TT 512 rank 4", formats.monarch(drawn(4, 16, 32, 16), drawn(4, 16, 32, 16)), 64, "issue"
        ),
        Case(
            "LoRETTA 4096 rank 5, batch 4096",
            "bi,io->bo",
            ((4096, 4096), through((4, 4, 16, 16), (16, 16, 4, 4), 5)),
            "system",
        ),
        Case("AdaZeta 768 rank 5, 8 cores, batch 512", "bi,qio->qbo", ((512, 768), adazeta), "ours"),
        linear("AFLoRA 1024 rank 4", aflora, 8192, "ours"),
        Case(
            "Tucker TRL 2048x7x7 -> 1000, batch 32",
            "bchw,chwo->bo",
            ((32, 2048, 7, 7), regression),
            "system",
            peer("TRL", (2048, 7, 7), (1000,), factorization="Tucker", rank=(200, 6, 6, 200)),
        ),
        linear(
            "CP linear 512 -> 512 rank 64",
            cp,
            64,
            "system",
            layer=peer("FactorizedLinear", (8, 8, 8), (32, 4, 4), factorization="CP", rank=64),
        ),
        linear(
            "Tucker linear 512 -> 512",
            tucker,
            64,
            "system",
            layer=peer("FactorizedLinear", (8, 8, 8), (32, 4, 4), factorization="Tucker", rank=ranks),
        ),
        linear("BTT 1936", formats.monarch(drawn(1, 44, 44, 44), drawn(1, 44, 44, 44)), 19200, "system"),
        linear("Monarch 632", formats.monarch(drawn(1, 158, 158, 4), drawn(1, 158, 4, 4)), 19200, "system"),
        Case("TFNO 64x64 modes 64x33, batch 8", "bixy,ioxy->boxy", ((8, 64, 64, 33), spectral), "ours"),
        linear("low rank 4096 rank 16", formats.low_rank(drawn(4096, 16), drawn(16, 4096)), 256, "issue"),
        linear("Kronecker 1024", formats.kronecker(drawn(1, 32, 32), drawn(1, 32, 32)), 256, "issue"),
        Case(
            "Gaunt product 25x25 -> 81, batch 10000",
            "zi,zj,ijk->zk",
            ((10000, 25), (10000, 25), table),
            "system",
        ),
        Case(
            "TT Gram 100x100 of 10^4",
            "px,qx->pq",
            tuple(
                formats.tt(
                    [drawn(100, *s) for s in ((1, 10, 10), (10, 10, 10), (10, 10, 10), (10, 10, 1))],
                    split=((10, 10, 10, 10),),
                    batch=1,
                )
                for _ in range(2)
            ),
            "system",
        ),
        Case(
            "TRL with rank masks, batch 32",
            "bchw,chwo->bo",
            ((32, 2048, 7, 7), masked),
            "system",
        ),
        Case("Tucker 5x5x5 rank 3", "xyz->xyz", (little,), "system"),
        Case("bilinear form of TT, 10^10 by 10^10 rank 10", "i,ij,j->", (side(), form, side()), "system"),
        Case(
            "Matrix product of irreps, batch 10000",
            "za,zb,abd->zd",
            ((10000, 25), (10000, 25), irreps),
            "system",
        ),
        Case(
            "tensor ring 4^8 rank 3",
            "i->i",
            (formats.tensor_ring([drawn(3, 4, 3) for _ in range(8)], split=((4,) * 8,)),),
            "system",
        ),
    ]


def expanded(case: Case) -> tuple[str, list[tuple[int, ...]], tuple[int, ...]]:
    """Return the einsum over inputs and factors that others evaluate pairwise, its shapes, and the result's shape."""
    given = [torch.empty(x, device="meta") if isinstance(x, tuple) else x for x in case.operands]
    network = contractc.plan(
        case.expression, *(tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in given)
    ).network
    letter = opt_einsum.get_symbol
    terms = ["".join(letter(m) for m in t.modes) for t in network.tensors]
    output = "".join(letter(m) for m in network.outputs[0])
    shapes = [network.shape(t.modes) for t in network.tensors]
    return f"{','.join(terms)}->{output}", shapes, network.shape(network.results()[0])


def inputs(case: Case, dtype: torch.dtype | None = None, device: str = "cpu") -> Tensors:
    """Return the tensors of a case, its weights as factors, all of which require gradients."""
    kind = dtype or flattened([case.operands[case.weights[0]]])[0].dtype
    made = [x if isinstance(x, Factorized) else torch.randn(x, dtype=kind) for x in case.operands]
    return [t.detach().to(device, kind).clone().requires_grad_() for t in flattened(made)]


def grouped(case: Case, tensors: Sequence[Any]) -> list[Any]:
    """Return tensors as the operands of a case."""
    left = iter(tensors)
    return [
        Factorized(x.layout, tuple(next(left) for _ in x.factors))
        if isinstance(x, Factorized)
        else next(left)
        for x in case.operands
    ]


def wide(case: Case) -> torch.dtype:
    narrow = flattened([case.operands[case.weights[0]]])[0].dtype
    return torch.complex128 if narrow.is_complex else torch.float64


def formed(case: Case) -> bool:
    """Return whether the dense operands are small enough to be formed."""
    return all(torch.Size(case.operands[k].shape).numel() <= LARGE for k in case.weights)


def checked(case: Case) -> None:
    """Raise AssertionError if the result or a gradient in float64 is not that of the dense operands, for few rows."""
    cut = Case(
        case.name,
        case.expression,
        tuple((min(x[0], 8), *x[1:]) if isinstance(x, tuple) else x for x in case.operands),
        "",
    )
    if not formed(case) or any(torch.Size(case.operands[k].shape).numel() > 2**25 for k in case.weights):
        return
    tensors = inputs(cut, wide(case))
    results = []
    for way in (
        lambda *xs: contractc.contract(cut.expression, *grouped(cut, xs)),
        lambda *xs: torch.einsum(
            cut.expression, *(x.to_dense() if isinstance(x, Factorized) else x for x in grouped(cut, xs))
        ),
    ):
        y = way(*tensors)
        cotangent = torch.ones_like(y)
        results.append([y.detach(), *torch.autograd.grad(y, tensors, cotangent)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


def idle(case: Case) -> bool:
    """Return whether the expression gives its operand back: then no dense operator computes anything."""
    left, _, right = case.expression.partition("->")
    return left == right


def ways(
    case: Case, training: bool, device: str = "cpu", target: Target | None = None
) -> dict[str, tuple[Way, Tensors]]:
    """Return what is measured: the functions and the tensors they take, contractc's first."""
    tensors = inputs(case, device=device)
    operands = grouped(case, tensors)
    values = operands if training else grouped(case, [t.detach() for t in tensors])
    constants = () if training else tuple(case.weights)
    compiled = contractc.compile(case.expression, *values, constants=constants, target=target)
    dense_inputs = [x for x in operands if not isinstance(x, Factorized)]
    found: dict[str, tuple[Way, Tensors]] = {"contractc": (compiled, tensors if training else dense_inputs)}
    if formed(case):
        dense = [
            x.to_dense().detach().clone().requires_grad_() if isinstance(x, Factorized) else x
            for x in operands
        ]
        if case.expression == "bi,oi->bo":
            found["dense"] = (torch.nn.functional.linear, dense)
        else:
            found["dense"] = (lambda *xs: torch.einsum(case.expression, *xs), dense)
    text, shapes, result = expanded(case)
    path = opt_einsum.contract_expression(text, *shapes, optimize="optimal" if len(shapes) < 9 else "auto-hq")
    found["opt_einsum"] = (
        lambda *xs: path(*(x.reshape(s) for x, s in zip(xs, shapes, strict=True))).reshape(result),
        tensors,
    )
    if text.isascii():  # torch.einsum has 52 letters
        found["torch.einsum"] = (
            lambda *xs: torch.einsum(text, *(x.reshape(s) for x, s in zip(xs, shapes, strict=True))).reshape(
                result
            ),
            tensors,
        )
    if case.layer is not None:
        layer = case.layer().to(device)
        parameters = [p for p in layer.parameters() if p.requires_grad]
        found["tltorch"] = (lambda x, *_: layer(x), [*dense_inputs, *parameters])
    return found


def saved_bytes(way: Way, tensors: Tensors) -> int:
    """Return the bytes that a forward pass keeps for the backward pass beside what it was given."""
    given = {t.untyped_storage().data_ptr() for t in tensors}
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = way(*tensors)
    del result
    return sum(kept.values())


def gain(compiled: Executable, training: bool, seconds: float) -> str:
    """Return what contractc does beyond evaluating pairs: choice, fusion, layout, joint backward, call overhead."""
    words = [*dict.fromkeys(c for c in compiled.plan.choices if c != "factored")]
    if REMARK in compiled.remarks:
        program = for_numpy(compiled.program)
        fused = [s for s in program.steps if isinstance(s, Contract) and s.how == loops.HOW]
        words += ["fusion"] if any(s.path for s in fused) else ["compiled loops"] if fused else []
        words += ["joint backward, layout"] if training else ["layout"]
    return ", ".join([*words, "call overhead"] if seconds < 1e-4 else words)


def peak(case: Case, training: bool) -> tuple[int, int]:
    """Return the bytes at the peak of a call in this process, operands included, and those that were predicted."""
    tensors = inputs(case)
    values = grouped(case, tensors if training else [t.detach() for t in tensors])
    constants = () if training else tuple(case.weights)
    compiled = contractc.compile(case.expression, *values, constants=constants)
    given = tensors if training else [x for x in values if not isinstance(x, Factorized)]
    cotangent = torch.ones(
        compiled.plan.network.shape(compiled.plan.network.results()[0]), dtype=tensors[0].dtype
    )
    call = _call(compiled, given, cotangent, training)
    for _ in range(CALLS_BEFORE + 1):  # what is loaded and made once, and the buffers of the libraries
        call()
    release()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, or it would be given out unseen
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    result = call()
    grown = _resident("VmHWM") - before
    del result
    program = compiled.program  # what was made of constants is there before the call, and they need not be
    held = sum(program.bytes_of(v) for v in (*program.inputs, *(c.value for c in program.constants)))
    return grown + held + training * cotangent.nbytes, printed_peak(compiled, training)


def printed_peak(compiled: Executable, training: bool) -> int:
    """Return the bytes at the peak predicted of the programs that run; of gradients that torch records, of the plan."""
    if not training:
        return compiled.peak
    program, plan = compiled.program, compiled.plan
    by_plan = [a.peak for a in plan.alternatives if a.choices == plan.choices] or [plan.peak]
    return peak_in_training(program, [v.number for v in program.inputs]) or by_plan[0]


def _resident(name: str) -> int:
    """Return a line of what Linux tells of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_of_child(case: Case, training: bool) -> list[int]:
    """Return what `peak` gives in a new process; nothing where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    kind = "train" if training else "infer"
    command = [sys.executable, __file__, "--peak", kind, "--only", case.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(case: Case, rounds: int, budget: float) -> list[dict[str, Any]]:
    """Return the measurements of one case, and print them."""
    checked(case)
    print(f"\n{case.name}  [{case.origin}]", flush=True)
    lines = []
    for training in (False, True):
        found = ways(case, training)
        compiled = found["contractc"][0]
        assert isinstance(compiled, Executable)
        cotangent = torch.randn_like(compiled(*found["contractc"][1]).detach()).contiguous()
        calls = {name: _call(way, tensors, cotangent, training) for name, (way, tensors) in found.items()}
        for call in calls.values():
            for _ in range(CALLS_BEFORE + 1):  # the code of small gradients is made after some calls
                call()
        seconds = interleaved(calls, rounds, budget=budget)
        others = [name for name in calls if name != "contractc" and not (name == "dense" and idle(case))]
        ratios = {name: paired(seconds["contractc"], seconds[name]) for name in others}
        line: dict[str, Any] = {
            "case": case.name,
            "sizes": case.origin,
            "kind": "forward+backward" if training else "forward",
            "choice": list(compiled.plan.choices),
            "gain": gain(compiled, training, median(seconds["contractc"])),
            "predicted": {
                ", ".join(a.choices): round(a.seconds * 1e3, 4) for a in compiled.plan.alternatives
            },
            "ms": {name: round(median(s) * 1e3, 4) for name, s in seconds.items()},
            "ratio": {name: [round(v, 3) for v in r] for name, r in ratios.items()},
            "rounds": len(seconds["contractc"]),
            "peak": peak_of_child(case, training),
        }
        if training:
            line["saved"] = {name: saved_bytes(*found[name]) for name in ("contractc", "opt_einsum")}
        lines.append(line)
        print(_shown(line, ratios), flush=True)
    return lines


def _call(way: Way, tensors: Tensors, cotangent: torch.Tensor, training: bool) -> Callable[[], Any]:
    if training:
        return lambda: torch.autograd.grad(
            way(*tensors), tensors, cotangent.reshape(-1).reshape(cotangent.shape)
        )

    def once() -> Any:
        with torch.no_grad():
            return way(*tensors)

    return once


def _shown(line: dict[str, Any], ratios: dict[str, Ratio]) -> str:
    best = min(ratios, key=lambda name: ratios[name].median)
    parts = [f"{name} {ms:.3f} ms" for name, ms in line["ms"].items()]
    saved = ""
    if "saved" in line:
        ours, other = (line["saved"][name] / 1e6 for name in ("contractc", "opt_einsum"))
        saved = f"; saved {ours:.2f} MB, pairwise {other:.2f} MB"
    if line["peak"]:
        measured, printed = (n / 1e6 for n in line["peak"])
        saved += f"; peak {measured:.1f} MB, printed {printed:.1f} MB"
    choice = ", ".join(line["choice"])
    return (
        f"  {line['kind']:17} {', '.join(parts)}\n    best other: {best} at {ratios[best]}; {choice}{saved}"
        f"\n    gain: {line['gain']}; predicted ms: {line['predicted']}"
    )


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """Return the geometric means over all lines and the lines that miss their bars."""
    best = [min(r[0] for r in line["ratio"].values()) for line in lines]
    lost = [
        f"{line['case']} ({line['kind']}): {min(r[2] for r in line['ratio'].values()):.2f}"
        for line in lines
        if min(r[2] for r in line["ratio"].values()) < 1 / 1.05
    ]
    tltorch = [line["ratio"]["tltorch"][0] for line in lines if "tltorch" in line["ratio"]]
    text = f"\n{len(lines)} lines: {geometric_mean(best):.2f}x the best other in geometric mean (bar 1.3)"
    if tltorch:
        text += f", {geometric_mean(tltorch):.2f}x TensorLy-Torch over {len(tltorch)} lines (bar 2)"
    return text + "".join(f"\n  more than 1.05 of the best other: {line}" for line in lost)


def selected(text: str) -> list[Case]:
    """Return the case of that name, or all whose name has that text."""
    every = cases()
    return [case for case in every if case.name == text] or [case for case in every if text in case.name]


def main() -> None:
    """Measure the cases asked for, write their lines and print the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of the rounds of one line")
    parser.add_argument("--only", default="", help="measure the cases whose name has this text")
    parser.add_argument(
        "--peak", choices=("infer", "train"), help="print the peak of one call of the case, and end"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.peak:
        (case,) = selected(options.only)
        print(json.dumps(peak(case, options.peak == "train")))
        return
    machine = {"cpu": processor(), "torch": torch.__version__, "threads": 1}
    if not options.only:
        RESULTS.unlink(missing_ok=True)
    lines = []
    for case in selected(options.only):
        made = [line | machine for line in run(case, options.rounds, options.budget)]
        lines += made
        kept(made)
    print(summary(lines))


def kept(lines: Sequence[dict[str, Any]]) -> None:
    """Write lines to the results, in place of older ones of the same case."""
    RESULTS.parent.mkdir(exist_ok=True)
    known = {(line["case"], line["kind"]) for line in lines}
    texts = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    before = [line for line in map(json.loads, texts) if (line["case"], line.get("kind")) not in known]
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in (*before, *lines)))


if __name__ == "__main__":
    main()
