"""torch modules whose weights are held as factors.

Their state is the factors and nothing else; how they are contracted is planned by contractc when a module is made.
"""

from contractc.nn.adapters import Adapter
from contractc.nn.conv import FactorizedConv
from contractc.nn.linear import FactorizedEmbedding, FactorizedLinear
from contractc.nn.regression import TCL, TRL
from contractc.nn.weights import Weight, fresh

__all__ = [
    "TCL",
    "TRL",
    "Adapter",
    "FactorizedConv",
    "FactorizedEmbedding",
    "FactorizedLinear",
    "Weight",
    "fresh",
]
