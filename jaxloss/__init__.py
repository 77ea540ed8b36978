"""The losses of `torch.nn.functional` in JAX: same names, same arguments, same numbers, every JAX transform.

Importing this package imports jax and nothing heavier. The rest is imported by name: `jaxloss.model5`,
`jaxloss.data` and `jaxloss.training` need `jaxloss[train]`; `jaxloss.interop` and `jaxloss.testing` need
PyTorch.
"""

from jaxloss import fused, losses
from jaxloss.fused import *  # noqa: F403
from jaxloss.losses import *  # noqa: F403

__all__ = [*fused.__all__, *losses.__all__]
