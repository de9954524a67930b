"""Make a bundle for a GPU and NumPy here, and run it in a fresh environment that has NumPy and contractc only.

The results there have to have the same bits as here before saving. NumPy comes from pip, in the version used here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import contractc

ROOT = Path(__file__).resolve().parent.parent

USE = """
import importlib.util, sys
import numpy as np
import contractc

for name in ("torch", "triton", "llvmlite", "numba", "cuda", "opt_einsum", "networkx"):
    assert importlib.util.find_spec(name) is None, f"{name} is here"
executable = contractc.load(sys.argv[1], sha256=sys.argv[2])
arrays = np.load(sys.argv[3])
np.savez(sys.argv[4], *[executable(arrays[k]) for k in arrays.files])
assert not {"contractc.search", "contractc.lower"} & set(sys.modules), "something was planned"
print(sys.version.split()[0], "NumPy", np.__version__)
print(executable)
"""


def bundle(path: Path) -> tuple[contractc.Executable, str]:
    """Save a layer with two constants for NumPy and cuda:90; return what NumPy runs, and the SHA-256."""
    text = "bi,bj,ijk->bk"
    rng = np.random.default_rng(0)
    x, *given = (rng.normal(size=s).astype("float32") for s in ((512, 16), (512, 16), (16, 16, 16)))
    options: dict[str, Any] = {"dtype": "float32", "constants": [1, 2]}
    numbers = contractc.compile(text, x.shape, *given, target="numpy", **options)
    tensors = [torch.from_numpy(c) for c in given]
    kernels = contractc.compile(text, x.shape, *tensors, target="triton:cuda:90", **options)
    return numbers, numbers.save(path, kernels)


def main() -> None:
    """Save, make the environment, run there, and compare every bit."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        numbers, digest = bundle(scratch / "net.ccb")
        rng = np.random.default_rng(1)
        arrays = [rng.normal(size=(512, 16)).astype("float32") for _ in range(3)]
        np.savez(scratch / "in.npz", *arrays)
        python = scratch / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        into = [*pip, "--python", str(python), "install", "--quiet"]
        build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(scratch), str(ROOT)]
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(scratch / "venv")], check=True)
        subprocess.run(build, check=True, cwd=scratch)
        (wheel,) = scratch.glob("contractc-*.whl")
        subprocess.run([*into, f"numpy=={np.__version__}"], check=True)
        subprocess.run([*into, "--no-deps", "--no-index", str(wheel)], check=True)
        files = [str(scratch / name) for name in ("net.ccb", "in.npz", "out.npz")]
        use = [str(python), "-I", "-c", USE, files[0], digest, *files[1:]]
        said = subprocess.run(use, check=True, cwd=scratch, capture_output=True, text=True).stdout
        found = np.load(files[2])
        for k, x in enumerate(arrays):
            here, there = numbers(x), found[f"arr_{k}"]
            if here.dtype != there.dtype or here.tobytes() != there.tobytes():
                sys.exit(f"other bits than before saving:\n{said}")
        print(f"the same bits in {said}", end="")


if __name__ == "__main__":
    main()
