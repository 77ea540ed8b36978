"""The PyTorch side of jaxloss: the same files, names and signatures, in PyTorch's own operations."""
