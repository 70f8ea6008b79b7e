"""The kernels in Triton: compiled for the card at hand when first called."""
