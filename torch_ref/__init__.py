"""The PyTorch side of jaxloss: the same files, names and signatures, written with PyTorch's own operations."""
