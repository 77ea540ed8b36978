"""Dropout whose masks can be taken out and put back in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dropout(nn.Module):
    r"""Set each element to zero with probability `rate` and scale the others to keep the mean.

    $y_i = m_i x_i / (1 - p)$ with $m_i \sim \mathrm{Bernoulli}(1 - p)$, each element on its own.

    The mask (bool, True where the element is kept) is written to the `dropout_masks` collection when that
    is mutable, and read from there when it is given: so the same masks reach another framework, or
    another run.

    Args:
        rate: probability of dropping an element, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*S"], deterministic: bool = True) -> Float[Array, "*S"]:
        """Drop elements of `x`; return `x` itself when `deterministic` or when the rate is 0.

        Raises:
            ValueError: there is neither a `dropout` key nor a mask, or the mask given does not fit `x`.
        """
        if deterministic or self.rate == 0:
            return x
        mask = self._mask(x.shape)
        if self.is_mutable_collection("dropout_masks"):
            self.put_variable("dropout_masks", "mask", mask)
        # Selected, not multiplied: a NaN or infinity that is dropped must not come back as NaN * 0.
        return jnp.where(mask, x / (1 - self.rate), 0)

    def _mask(self, shape: tuple[int, ...]) -> jax.Array:
        where = "/".join(self.path)
        if self.has_variable("dropout_masks", "mask"):
            mask: jax.Array = self.get_variable("dropout_masks", "mask")
            if mask.shape != shape or mask.dtype != bool:
                raise ValueError(
                    f"the dropout mask of {where} must be bool {shape}, got {mask.dtype} {mask.shape}"
                )
            return mask
        if not self.has_rng("dropout"):
            raise ValueError(
                f"deterministic=False needs a key for {where}: pass rngs={{'dropout': key}} to apply, "
                "or a mask for every dropout in the dropout_masks collection"
            )
        # In float32 whatever jax_enable_x64 says, so that a key means the same mask everywhere.
        return jax.random.bernoulli(self.make_rng("dropout"), jnp.float32(1 - self.rate), shape)
