"""Dropout whose masks can be taken out and put back in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxloss.model5._bernoulli import bernoulli


class Dropout(nn.Module):
    r"""Set each element to zero with probability `rate` and scale the others to keep the mean.

    $y_i = m_i x_i / (1 - p)$ with $m_i \sim \mathrm{Bernoulli}(1 - p)$, each element on its own.

    The mask (bool, True where the element is kept) is written to the `dropout_masks` collection when that
    is mutable, and read from there when it is given: so the same masks reach another framework, or
    another run. The collection holds whole masks, also where only the end of one is applied.

    Args:
        rate: probability of dropping an element, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "*S"], deterministic: bool = True, whole_length: int | None = None
    ) -> Float[Array, "*S"]:
        """Drop elements of `x`; return `x` itself when `deterministic` or when the rate is 0.

        Args:
            x: any array.
            deterministic: True leaves `x` as it is.
            whole_length: length along axis -2 of the array of which `x` is the end, and whose mask's end is
                applied; None means that `x` is the whole.

        Raises:
            ValueError: there is neither a `dropout` key nor a mask, or the mask given does not fit `x`.
        """
        if deterministic or self.rate == 0:
            return x
        shape, skipped = x.shape, 0
        if whole_length is not None:
            shape, skipped = (*x.shape[:-2], whole_length, x.shape[-1]), whole_length - x.shape[-2]
        if self.is_mutable_collection("dropout_masks"):
            whole_mask = self._mask(shape, 0)
            self.put_variable("dropout_masks", "mask", whole_mask)
            mask = whole_mask[..., skipped:, :] if skipped else whole_mask
        else:
            mask = self._mask(shape, skipped)
        # Selected, not multiplied: a NaN or infinity that is dropped must not come back as NaN * 0.
        return jnp.where(mask, x / (1 - self.rate), 0)

    def _mask(self, shape: tuple[int, ...], skipped: int) -> jax.Array:
        """The mask of an array of this shape, without the first `skipped` elements of axis -2."""
        if self.has_variable("dropout_masks", "mask"):
            mask: jax.Array = self.get_variable("dropout_masks", "mask")
            if mask.shape != shape or mask.dtype != bool:
                raise ValueError(
                    f"the dropout mask of {'/'.join(self.path)} must be bool {shape}; "
                    f"got {mask.dtype} {mask.shape}"
                )
            return mask[..., skipped:, :] if skipped else mask
        return bernoulli(self.key(), 1 - self.rate, shape, skipped)

    def key(self) -> jax.Array:
        """What the mask is drawn from: the `dropout` key with this module's name in the model folded in.

        A `key` in the `dropout_keys` collection goes before it, of a module that a loop calls by no name.
        """
        if self.has_variable("dropout_keys", "key"):
            key: jax.Array = self.get_variable("dropout_keys", "key")
            return key
        if not self.has_rng("dropout"):
            raise ValueError(
                f"deterministic=False needs a key for {'/'.join(self.path)}: pass rngs={{'dropout': key}} to "
                "apply, or a mask for every dropout in the dropout_masks collection"
            )
        return self.make_rng("dropout")
