"""Results as JSON lines: each line tells everything about one case."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from contractc.bench.run import Result


def as_line(result: Result) -> str:
    """Return `result` as one line of JSON, numbers of seconds with five digits."""
    return json.dumps(_rounded(result.to_json()), ensure_ascii=False)


def _rounded(data: object) -> object:
    if isinstance(data, float):
        return float(f"{data:.5g}")
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    return [_rounded(x) for x in data] if isinstance(data, list | tuple) else data


def read_results(path: Path) -> list[Result]:
    """Return the results in a file of JSON lines; a later one of the same case replaces an earlier one.

    Raises:
        ValueError: it holds something else.
    """
    found = {}
    try:
        results = [
            Result.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} holds no results of contractc bench: {error}") from None
    for result in results:
        case = result.case
        found[case.name, case.text, case.dtype, case.seed, bool(result.conditions.get("control"))] = result
    return list(found.values())


def append_results(path: Path, results: Iterable[Result]) -> None:
    """Append `results` to a file of JSON lines; what is there is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(as_line(r) + "\n" for r in results)
