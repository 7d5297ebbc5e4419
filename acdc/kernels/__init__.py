"""Products with unstructured sparse weights on CPUs, for training and inference."""
