"""What programs run on beside the array library: compiled loops, matrix products, copies."""
