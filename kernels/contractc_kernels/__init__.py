"""Hand-written Triton kernels of contractc."""
