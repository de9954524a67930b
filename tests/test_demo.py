"""The demo: its truths against brute force, and contractc against the truths on small instances."""

from __future__ import annotations

from itertools import product
from math import exp, log, prod

import numpy as np
import pytest

import contractc
from demo import __main__ as command
from demo import circuit, dominoes, ising, karate
from demo.report import Report, as_text, peers

GRAPHS = {
    "edge": [(0, 1)],
    "path": [(0, 1), (1, 2), (2, 3), (3, 4)],
    "cycle": [(k, (k + 1) % 7) for k in range(7)],
    "two parts": [(0, 1), (1, 2), (0, 2), (5, 6), (6, 7), (7, 8), (8, 5)],
    "clique": [(u, v) for u in range(5) for v in range(u)],
    "star": [(0, k) for k in range(1, 8)],
    "petersen": [edge for k in range(5) for edge in ((k, (k + 1) % 5), (k, k + 5), (k + 5, (k + 2) % 5 + 5))],
}


@pytest.fixture(params=list(GRAPHS))
def edges(request: pytest.FixtureRequest) -> list[tuple[int, int]]:
    return GRAPHS[request.param]


def assignments(edges: list[tuple[int, int]], values: int) -> list[dict[int, int]]:
    vertices = sorted({v for edge in edges for v in edge})
    return [dict(zip(vertices, x, strict=True)) for x in product(range(values), repeat=len(vertices))]


def test_independent_sets_are_counted_as_by_brute_force(edges: list[tuple[int, int]]) -> None:
    truth = sum(all(not (x[u] and x[v]) for u, v in edges) for x in assignments(edges, 2))
    assert karate.count_independent_sets(edges) == truth
    assert contractc.contract(*karate.independent_sets(edges)) == truth


@pytest.mark.parametrize("colours", [1, 2, 3])
def test_colourings_are_counted_as_by_brute_force(edges: list[tuple[int, int]], colours: int) -> None:
    truth = sum(all(x[u] != x[v] for u, v in edges) for x in assignments(edges, colours))
    assert karate.count_colourings(edges, colours) == truth
    value = contractc.contract(*karate.colourings(edges, colours))
    assert (type(value), value) == (int, truth)


def test_colourings_of_known_graphs() -> None:
    assert karate.count_colourings(GRAPHS["petersen"], 5) == 332_880  # chromatic polynomial at 5
    assert karate.count_colourings(GRAPHS["petersen"], 2) == 0
    assert karate.count_colourings(GRAPHS["clique"], 50) == prod(range(46, 51))
    assert contractc.contract(*karate.colourings(GRAPHS["path"], 50)) == 50 * 49**4


def test_maximum_cut_is_that_of_brute_force(edges: list[tuple[int, int]]) -> None:
    truth = max(sum(x[u] != x[v] for u, v in edges) for x in assignments(edges, 2))
    assert karate.maximum_cut(edges) == truth
    assert contractc.contract(*karate.cut(edges), semiring="max_plus") == truth


def brute_force_tilings(rows: int, columns: int, covered: frozenset[tuple[int, int]] = frozenset()) -> int:
    free = sorted((r, c) for r in range(rows) for c in range(columns) if (r, c) not in covered)
    if not free:
        return 1
    row, column = free[0]
    others = [square for square in ((row, column + 1), (row + 1, column)) if square in free]
    return sum(brute_force_tilings(rows, columns, covered | {free[0], other}) for other in others)


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (1, 5), (2, 2), (2, 7), (3, 3), (3, 4), (4, 5)])
def test_tilings_are_counted_as_by_brute_force(rows: int, columns: int) -> None:
    truth = brute_force_tilings(rows, columns)
    assert dominoes.kasteleyn(rows, columns) == truth
    assert dominoes.count_tilings(rows, columns) == truth
    assert contractc.contract(*dominoes.tilings(rows, columns)) == truth


def test_tilings_of_the_chessboard() -> None:
    assert dominoes.kasteleyn(8, 8) == dominoes.count_tilings(8, 8) == 12_988_816


def brute_force_log_z(rows: int, columns: int, beta: float, torus: bool) -> float:
    total = 0.0
    for values in product((1, -1), repeat=rows * columns):
        spins = np.array(values).reshape(rows, columns)
        energy = int((spins[1:] * spins[:-1]).sum() + (spins[:, 1:] * spins[:, :-1]).sum())
        if torus:
            energy += int((spins[0] * spins[-1]).sum() + (spins[:, 0] * spins[:, -1]).sum())
        total += exp(beta * energy)
    return log(total)


@pytest.mark.parametrize("temperature", [1.0, ising.CRITICAL, 4.0])
@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 4), (4, 3)])
def test_ising_agrees_with_brute_force(rows: int, columns: int, temperature: float) -> None:
    beta = 1 / temperature
    for torus, truth in ((True, ising.kaufman), (False, ising.transfer)):
        expected = brute_force_log_z(rows, columns, beta, torus)
        assert truth(rows, columns, beta) == pytest.approx(expected, abs=1e-12)
        network = ising.ising(rows, columns, beta, torus=torus)
        assert log(contractc.contract(*network)) == pytest.approx(expected, abs=1e-12)
        stripped = contractc.contract(*network, strip_exponent=True)
        assert ising.log_value(*stripped) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.8, ising.CRITICAL, 3.0])
def test_kaufman_agrees_on_a_4x4_torus_with_brute_force(temperature: float) -> None:
    spins = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1).reshape(-1, 4, 4)
    energy = sum((spins * np.roll(spins, 1, axis)).sum(axis=(1, 2)) for axis in (1, 2))
    truth = log(np.exp(energy / temperature).sum())
    assert ising.kaufman(4, 4, 1 / temperature) == pytest.approx(truth, abs=1e-12)


def test_an_ising_model_too_cold_for_float64_has_an_exact_exponent() -> None:
    network = ising.ising(16, 6, 8.0, torus=False)
    with np.errstate(over="ignore"):
        assert contractc.contract(*network) == np.inf
    mantissa, exponent = contractc.contract(*network, strip_exponent=True)
    assert ising.log_value(mantissa, exponent) == pytest.approx(ising.transfer(16, 6, 8.0), abs=1e-10)


def test_every_amplitude_of_a_small_circuit_is_that_of_its_matrix() -> None:
    layers = circuit.random_circuit(2, 2, depth=5, seed=3)
    matrix = np.eye(16, dtype=complex)
    for layer in layers:
        for qubit, gate in enumerate(layer.gates):
            assert gate @ gate.conj().T == pytest.approx(np.eye(2), abs=1e-14)
            matrix = np.kron(np.kron(np.eye(2**qubit), gate), np.eye(2 ** (3 - qubit))) @ matrix
        for one, two in layer.pairs:
            both = [(state >> (3 - one)) & (state >> (3 - two)) & 1 for state in range(16)]
            matrix = np.diag([-1.0 if bit else 1.0 for bit in both]) @ matrix
    assert matrix @ matrix.conj().T == pytest.approx(np.eye(16), abs=1e-14)
    assert sum(len(layer.pairs) for layer in layers) > 0
    assert circuit.state_vector(layers) == pytest.approx(matrix[:, 0], abs=1e-14)
    for state in range(16):
        value = contractc.contract(*circuit.amplitude(layers, f"{state:04b}"))
        assert value == pytest.approx(matrix[state, 0], abs=1e-14)


def test_an_amplitude_of_ten_qubits_is_that_of_the_state_vector() -> None:
    layers = circuit.random_circuit(2, 5, depth=9, seed=4)
    state = circuit.state_vector(layers)
    assert np.linalg.norm(state) == pytest.approx(1, abs=1e-13)
    value = contractc.contract(*circuit.amplitude(layers, "0110100101"))
    assert value == pytest.approx(state[0b0110100101], abs=1e-14)


@pytest.mark.parametrize("structure", ["tt_matrix", "monarch"])
def test_structured_layers_and_their_gradients_are_those_of_the_dense_layer(structure: str) -> None:
    pytest.importorskip("torch")
    from demo import layers

    layer = layers.tt_matrix(5, (2, 3, 4, 2), 3) if structure == "tt_matrix" else layers.monarch(5, 3, 4)
    report = Report()
    for evaluate in layers.evaluations(layer, "float64").values():
        layers.check(report, layer, evaluate)
    assert (report.checks, report.failed) == (2, [])


def test_report_remembers_failed_checks(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.check("tilings", 5, 5, by="hand")
    report.check("tilings", 5, 6, by="hand")
    report.check("length", 1.0, 1.5, by="ruler", within=0.1)
    report.small("gap", 0.5, within=1.0)
    assert (report.checks, report.failed) == (4, ["tilings", "length"])
    assert capsys.readouterr().out.splitlines() == [
        "tilings: 5",
        "  hand: 5  (equal)",
        "tilings: 5",
        "  hand: 6  (WRONG by 1)",
        "length: 1",
        "  ruler: 1.5  (difference 5.0e-01, WRONG: allowed 1e-01)",
        "gap: 5.0e-01 (allowed 1e+00)",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_report_fails_what_is_not_finite(value: float) -> None:
    report = Report()
    report.check("value", value, 1.0, by="hand", within=0.1)
    report.small("value", value, within=0.1)
    assert report.failed == ["value", "value"]


def test_peers_agree_where_they_can_run() -> None:
    network = karate.independent_sets(GRAPHS["petersen"])
    values = [call if isinstance(call, str) else call() for call in peers(network).values()]
    assert values == [76, 76]
    assert as_text(karate.independent_sets([(3, 4), (4, 9)]))[0] == "ab,bc->"
    reason = peers(dominoes.tilings(8, 8))["np.einsum"]
    assert reason == "it has 52 letters, this network 112 modes"


def test_peers_say_what_would_take_too_long() -> None:
    clique = karate.colourings([(u, v) for u in range(12) for v in range(u)], 40)
    for reason in peers(clique).values():
        assert isinstance(reason, str)
        assert reason.startswith("not run: its path needs ")


def test_a_plan_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    Report().plan(contractc.plan(*dominoes.tilings(4, 4)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("plan by ") and lines[-1].endswith("predicted")
    assert lines[4] == "  ... 11 more ..."
    assert len(lines) == 8 and max(map(len, lines)) <= 160


def test_the_command_fails_on_an_unknown_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["chess"]) == 2
    assert "no section is called chess" in capsys.readouterr().out


def test_the_command_fails_when_a_check_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.main(["dominoes"]) == 0
    monkeypatch.setattr(dominoes, "kasteleyn", lambda rows, columns: 12_988_817)
    assert command.main(["dominoes"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAILED: tilings"
