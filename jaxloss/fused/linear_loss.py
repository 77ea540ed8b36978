"""Any loss of a token's logits as one of hidden states and head."""

from collections.abc import Callable
from functools import partial

from jaxloss import _checks
from jaxloss._reduction import as_denominator
from jaxloss.fused._evaluate import linear_loss
from jaxloss.fused._token_loss import TokenLoss

__all__ = ["make_linear_loss"]


def make_linear_loss(fn: Callable, *, splits_classes: bool = False) -> Callable:
    r"""Make a loss of logits one of hidden states and a linear head, whose logits are never whole in memory.

    $$z_n = c \tanh\!\big(s\, (W x_n + b) / c\big), \qquad \ell_n = a_n f(z_n, y_n; \theta)$$

    Equal to the logits followed by `fn`, under every JAX transform: the gradients are made with the loss, at
    three matrix products, and with "none" at four. `linear_cross_entropy` is made so.

    Args:
        fn: `fn(logits, *arrays, **options)` for the C tokens of a chunk, any differentiable function of JAX:
            from logits `[C, V]` and arrays `[C, ...]` to the values $f$ `[C]`, or `(values, statistics)`,
            where statistics are a pytree of arrays `[C, ...]`, without derivatives. The value of one token
            may not depend on another. Logits have the dtype of the computation, arrays their own. It may
            close over arrays, traced ones too, but for those that devices with other tokens share. Each call
            traces it and finds it as it is; only under `jax.jit` does it stay as that finds it. Compiled
            programs are kept by what is traced, in which arrays are operands, and numbers are not: what
            changes at each step is an array or has a name of its own.
        splits_classes: `fn` also takes `axis_name`: None, or the mesh axis that the classes of its logits are
            split over, in order, over which its sums are then to be taken, by `jax.lax.psum`.

    Returns:
        `loss(input, linear_weight, *arrays, linear_bias=None, reduction="mean", where=None,
        sample_weight=None, denominator=None, logit_softcap=None, logit_scale=None, implementation="auto",
        chunk_size=None, axis_name=None, **options)`, whose named arguments are those of
        `linear_cross_entropy`; `denominator`, above 0, is what the mean divides by, if not by the sum of the
        weights.
        What comes by position has an entry for each token, `[*N, ...]`. What comes by a name of its own is
        shared by the tokens: a number or an array without axes, which may change without a new compilation
        and comes to `fn` as an array in the dtype of the computation (what decides a shape, such as a `k`, is
        bound by `functools.partial`), or an array with an entry for each class, `[V, ...]`; None counts as
        not given. What is floating point has a gradient. Where `fn` returns statistics, so does `loss`,
        `(value, statistics)`, of the shape of the tokens and 0 for those that `where` leaves out. With a
        split vocabulary, arrays `[V, ...]` and `[*N, V]` are this device's slice.

    Raises:
        TypeError, ValueError: also if `fn` returns anything but a value for each token.

    Reference: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models"
    (https://arxiv.org/abs/2411.09009), for the problem.

    >>> import jax, jax.numpy as jnp
    >>> def policy_loss(logits, action, advantage, *, temperature):
    ...     log_probs = jax.nn.log_softmax(logits / temperature)
    ...     return -advantage * jnp.take_along_axis(log_probs, action[:, None], 1)[:, 0]
    >>> loss = make_linear_loss(policy_loss)
    >>> hidden, head = jnp.ones((4, 8), jnp.float32), jnp.zeros((50, 8), jnp.float32)
    >>> print(loss(hidden, head, jnp.arange(4), jnp.ones(4, jnp.float32), temperature=0.7))  # ln 50
    3.912023
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function of logits; got {fn!r}.")
    _checks.check_flag("splits_classes", splits_classes)
    return partial(_linear_loss, TokenLoss(fn, bool(splits_classes)))


def _linear_loss(loss: TokenLoss, /, *arguments, reduction: str = "mean", denominator=None, **options):
    denominator = as_denominator(denominator, reduction)
    return linear_loss(loss, *arguments, reduction=reduction, denominator=denominator, **options)
