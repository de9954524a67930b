"""Build the wheel, and use it from outside the checkout. Needs no network."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

USE = """
import importlib, pathlib, pkgutil, sys
import numpy as np
import contractc, contractc_kernels

site = pathlib.Path(sys.argv[1])
for package in (contractc, contractc_kernels):
    assert pathlib.Path(package.__file__).is_relative_to(site), f"{package.__file__} is not from the wheel"
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as missing:
            if missing.name.startswith("contractc"):
                raise
a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
np.testing.assert_allclose(contractc.contract("ij,jk->ik", a, b), a @ b)
np.testing.assert_allclose(contractc.compile("ij,jk->ik", a.shape, b.shape)(a, b), a @ b)
"""


def expected(root: Path) -> set[str]:
    """Return the paths that the wheel has to hold beside its metadata."""
    found = set()
    for base, package in ((root, "contractc"), (root / "kernels", "contractc_kernels")):
        for path in (base / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(path.relative_to(base).as_posix())
    return found


def main() -> None:
    """Build, compare the list of files with the checkout's, install elsewhere, and use."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        build = [*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(scratch), str(ROOT)]
        subprocess.run(build, check=True, cwd=scratch)
        (wheel,) = scratch.glob("contractc-*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        held = {name for name in names if ".dist-info/" not in name}
        if held != expected(ROOT):
            sys.exit(f"the wheel and the checkout differ in {sorted(held ^ expected(ROOT))}")
        for text in ("LICENSE", "NOTICE"):
            if not any(name.endswith(f".dist-info/licenses/{text}") for name in names):
                sys.exit(f"the wheel does not hold {text}")
        site = scratch / "site"
        install = [*PIP, "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
        subprocess.run(install, check=True, cwd=scratch)
        use = [sys.executable, "-P", "-c", USE, str(site)]
        subprocess.run(use, check=True, cwd=scratch, env=os.environ | {"PYTHONPATH": str(site)})


if __name__ == "__main__":
    main()
