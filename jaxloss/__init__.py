"""The losses of `torch.nn.functional` in JAX: same names, same arguments, same numbers, every JAX transform.

Importing this package imports jax and nothing heavier. The rest is imported by name: `jaxloss.model5` and
`jaxloss.training` need `jaxloss[train]`, `jaxloss.testing` needs PyTorch.
"""

from jaxloss import losses as losses
