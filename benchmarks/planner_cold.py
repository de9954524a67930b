"""What a process that has just been started finds: reads a network as JSON, prints a path; run by planner.py.

    python benchmarks/planner_cold.py BEGAN LIMIT SEED < network.json

BEGAN is when the parent started it, in seconds of `monotonic`: imports, and compiling where nothing is on disk yet,
are part of the LIMIT seconds.
"""

import json
import os
import sys


def main() -> None:
    began, limit, seed = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    from contractc.network import Tensor, TensorNetwork
    from contractc.options import Search
    from contractc.search import search

    inputs, output, sizes = json.load(sys.stdin)
    tensors = tuple(Tensor(tuple(term), "float64") for term in inputs)
    network = TensorNetwork(tensors, (tuple(output),), tuple(sizes), "float64")
    plan = search(network, Search(time_limit=limit, seed=seed, minimize="flops"), started=began)
    print(json.dumps(plan.path), flush=True)
    os._exit(0)  # what the interpreter clears up is not part of planning


if __name__ == "__main__":
    main()
