"""Where the CPU program gets its matrix products from: NumPy's own BLAS, or torch's if torch is there already.

`loops` has steps as compiled loops.
"""

from __future__ import annotations

import sys

NUMPY, TORCH = "numpy", "torch"


def providers() -> tuple[str, ...]:
    """Return the providers that can be used without importing a library that the user has not imported."""
    return (NUMPY, TORCH) if "torch" in sys.modules and _works() else (NUMPY,)


def _works() -> bool:
    """Return whether torch can write a product into memory of NumPy: it was built with NumPy, and for a CPU."""
    try:
        from contractc.providers import torch_products
    except ImportError:
        return False
    return torch_products.works()
