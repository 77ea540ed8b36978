"""The losses of `torch.nn.functional` in JAX: same names, same arguments, same numbers, every JAX transform.

Importing this package imports jax and nothing heavier. The rest is imported by name: `jaxloss.model5`,
`jaxloss.data` and `jaxloss.training` need `jaxloss[train]`, `jaxloss.testing` needs PyTorch.
"""

from jaxloss.losses import (
    cross_entropy,
    final_token_loss,
    kl_div,
    l1_loss,
    mse_loss,
    next_token_loss,
    nll_loss,
)

__all__ = [
    "cross_entropy",
    "final_token_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "next_token_loss",
    "nll_loss",
]
