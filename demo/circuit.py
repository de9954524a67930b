"""One amplitude of a random quantum circuit, as a network whose modes are the wires between gates.

A gate on one qubit is a 2x2 tensor from the wire before it to the wire after it. The gate CZ changes only
the sign where both qubits are 1, so it needs no wires of its own: it is a 2x2 tensor over the two wires it
touches, which become hyperedges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import contractc
from demo.report import Arguments, Report, timed

Complex = np.ndarray[Any, np.dtype[np.complex128]]


@dataclass(frozen=True, slots=True)
class Layer:
    """A gate on every qubit, `gates[qubit, out, in]`, then a CZ on each of `pairs` (lower qubit first)."""

    gates: Complex
    pairs: tuple[tuple[int, int], ...]


def random_circuit(rows: int, columns: int, depth: int, seed: int) -> list[Layer]:
    """Return `depth` layers of Haar-random gates on a grid of qubits, each followed by CZ between neighbours.

    Four patterns of pairs take turns (horizontal and vertical, starting at even and odd places); the last
    layer has no CZ, since that would only change signs.
    """
    random = np.random.default_rng(seed)
    layers = []
    for step in range(depth):
        normal = random.normal(size=(2, rows * columns, 2, 2))
        q, r = np.linalg.qr(normal[0] + 1j * normal[1])
        diagonal = np.diagonal(r, axis1=1, axis2=2)
        gates = q * (diagonal / abs(diagonal))[:, None, :]
        vertical, odd = step % 2, step // 2 % 2
        pairs = []
        for row in range(rows - vertical):
            for column in range(columns - 1 + vertical):
                if (row if vertical else column) % 2 == odd:
                    here = row * columns + column
                    pairs.append((here, here + (columns if vertical else 1)))
        layers.append(Layer(gates, tuple(pairs) if step < depth - 1 else ()))
    return layers


def amplitude(layers: list[Layer], bits: str) -> Arguments:
    """Return the network whose value is <bits| circuit |0...0>."""
    cz = np.array([[1.0, 1.0], [1.0, -1.0]], dtype=complex)
    basis = np.eye(2, dtype=complex)
    arguments: Arguments = []
    for qubit in range(len(bits)):
        arguments += [basis[0], (f"{qubit}.0",)]
    for step, layer in enumerate(layers):
        for qubit, gate in enumerate(layer.gates):
            arguments += [gate, (f"{qubit}.{step + 1}", f"{qubit}.{step}")]
        for one, two in layer.pairs:
            arguments += [cz, (f"{one}.{step + 1}", f"{two}.{step + 1}")]
    for qubit, bit in enumerate(bits):
        arguments += [basis[int(bit)], (f"{qubit}.{len(layers)}",)]
    return [*arguments, ()]


def state_vector(layers: list[Layer]) -> Complex:
    """Return all amplitudes [2**qubits], by applying the circuit to the whole state.

    The gates of up to four qubits are applied as one 16x16 matrix to the first axis of the state, which then
    becomes its last: after a layer the qubits are back in their order.
    """
    qubits = len(layers[0].gates)
    state, other = (np.zeros(2**qubits, dtype=complex) for _ in range(2))
    state[0] = 1
    for layer in layers:
        for first in range(0, qubits, 4):
            matrix = np.ones((1, 1), dtype=complex)
            for gate in layer.gates[first : first + 4]:
                matrix = np.kron(matrix, gate)
            size = len(matrix)
            np.matmul(state.reshape(size, -1).T, matrix.T, out=other.reshape(-1, size))
            state, other = other, state
        for one, two in layer.pairs:
            parts = state.reshape(2**one, 2, 2 ** (two - one - 1), 2, -1)
            np.negative(parts[:, 1, :, 1], out=parts[:, 1, :, 1])
    return state


def run(report: Report, rows: int = 4, columns: int = 6, depth: int = 14) -> None:
    """Print the section."""
    qubits = rows * columns
    layers = random_circuit(rows, columns, depth, seed=24)
    bits = "".join(np.random.default_rng(1).choice(["0", "1"], qubits))
    arguments = amplitude(layers, bits)
    entangling = sum(len(layer.pairs) for layer in layers)
    report.section(
        f"circuit: one amplitude of {qubits} qubits",
        f"{rows}x{columns} qubits, {depth} layers of random gates with {entangling} CZ between them: "
        f"{len(arguments) // 2} tensors, complex128.",
    )
    report.plan(contractc.plan(*arguments))
    values = report.race({"contractc": partial(contractc.contract, *arguments)}, arguments)
    state, seconds = timed(partial(state_vector, layers))
    norm = np.linalg.norm(state)
    report.say(f"state vector: {seconds:.1f} s for all {len(state):,} amplitudes, norm {norm:.12f}")
    truth = complex(state[int(bits, 2)])
    report.check(f"amplitude of {bits}", complex(values["contractc"]), truth, by="state vector", within=1e-14)
