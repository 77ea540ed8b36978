"""Hybrid losses: several combined, with weights that are fixed, change during training, or are learnt.

A loss is anything called with `(y_hat, y)` that returns a scalar: the losses of this package and a user's
own.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss import _checks
from jaxloss._checks import Scalar, as_scalar, in_dtype, is_number
from jaxloss._reduction import compute_dtype
from jaxloss.losses._elements import zero_times

__all__ = ["init_log_variances", "make_hybrid_loss", "make_uncertainty_weighted_loss"]

_LIKELIHOODS = ("gaussian", "softmax")


def make_hybrid_loss(
    losses: Mapping[str, Callable],
    weights: Mapping[str, Scalar | Callable],
) -> Callable:
    r"""Make the weighted sum of several losses, with weights that are fixed or depend on the step.

    $$L = \sum_k w_k(\text{step})\, L_k(\hat y, y)$$

    Args:
        losses: functions of `(y_hat, y)` that return a scalar, by name.
        weights: for each name a number; an array without axes, which may be traced or learnt; or a function
            from the step to one of them, such as an optax schedule. A loss whose weight is the number 0 is
            not computed; one whose weight becomes 0 adds nothing to the value, nor to the gradients by
            `y_hat`, `y` and the options, even if infinite.

    Returns:
        `hybrid(y_hat, y, *, step=None, return_terms=False, **options)`, itself a loss. `options`, such as
        `where=`, go to every loss. With `return_terms` it returns the sum and a dict of the losses before
        weighting, for `jax.value_and_grad(..., has_aux=True)`. It can be pickled if the losses can.

    Reference: Goodfellow et al. 2016, "Deep Learning", equation 7.1, for a loss with a weighted penalty.

    >>> import jax.numpy as jnp
    >>> from jaxloss.losses import l1_loss, mse_loss
    >>> weights = {"l1": 0.5, "l2": lambda step: step / 100}
    >>> hybrid = make_hybrid_loss({"l1": l1_loss, "l2": mse_loss}, weights)
    >>> y_hat, y = jnp.array([2.0], jnp.float32), jnp.array([5.0], jnp.float32)
    >>> print(hybrid(y_hat, y, step=0), hybrid(y_hat, y, step=100))
    1.5 10.5
    """
    losses, weights = dict(losses), dict(weights)
    _check_losses(losses)
    _check_names("weights", weights, losses)
    for name, weight in weights.items():
        if not callable(weight):
            weights[name] = as_scalar(f"weights[{name!r}]", weight)
    return partial(_hybrid, losses, weights)


def _hybrid(losses, weights, /, y_hat: Any, y: Any, *, step=None, return_terms: bool = False, **options):
    terms, now = {}, {}
    for name, loss in losses.items():
        weight = weights[name]
        if callable(weight):
            if step is None:
                raise ValueError(f"step must be given: the weight of {name!r} depends on it.")
            weight = as_scalar(f"weights[{name!r}] at the step", weight(step))
        elif is_number(weight, 0.0):
            continue
        arguments = _without_gradient_at_0(weight, (y_hat, y, options))
        now[name], terms[name] = weight, _term(name, loss, *arguments)
    dtype = compute_dtype(*terms.values())
    total = jnp.zeros((), dtype)
    for name, term in terms.items():
        total = total + zero_times(in_dtype(now[name], dtype), term.astype(dtype))
    return (total, terms) if return_terms else total


def make_uncertainty_weighted_loss(
    losses: Mapping[str, Callable], likelihoods: Mapping[str, str]
) -> Callable:
    r"""Make a sum of losses with learnt weights: each loss is scaled by its own noise, learnt from the data.

    $$L = \sum_k c_k\, e^{-s_k} L_k(\hat y, y) + \tfrac12 s_k, \qquad s_k = \log \sigma_k^2$$

    with $c_k = \tfrac12$ for a squared error (Gaussian likelihood) and $1$ for a cross entropy (softmax
    likelihood). At the optimum, $e^{-s_k} = 1 / (2 c_k L_k)$: the larger a loss stays, the less it weighs.

    Args:
        losses: functions of `(y_hat, y)` that return a scalar, by name.
        likelihoods: for each name "gaussian" or "softmax".

    Returns:
        `hybrid(y_hat, y, log_variances, *, return_terms=False, **options)`. `log_variances` is a dict of the
        $s_k$ by name, from `init_log_variances`, to be trained with the model's parameters and without weight
        decay. `options` and `return_terms` are as for `make_hybrid_loss`.

    Reference: Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry
    and Semantics" (https://arxiv.org/abs/1705.07115).

    >>> import jax.numpy as jnp
    >>> from jaxloss.losses import mse_loss
    >>> hybrid = make_uncertainty_weighted_loss({"l2": mse_loss}, {"l2": "gaussian"})
    >>> log_variances = {"l2": jnp.log(jnp.array(9.0, jnp.float32))}
    >>> y_hat, y = jnp.array([2.0], jnp.float32), jnp.array([5.0], jnp.float32)
    >>> print(hybrid(y_hat, y, log_variances))  # (1 + ln 9) / 2
    1.5986123
    """
    losses, likelihoods = dict(losses), dict(likelihoods)
    _check_losses(losses)
    _check_names("likelihoods", likelihoods, losses)
    for name, likelihood in likelihoods.items():
        _checks.check_choice(f"likelihoods[{name!r}]", likelihood, _LIKELIHOODS)

    return partial(_uncertainty_weighted, losses, likelihoods)


def _uncertainty_weighted(
    losses,
    likelihoods,
    /,
    y_hat: Any,
    y: Any,
    log_variances: Mapping,
    *,
    return_terms: bool = False,
    **options,
):
    _check_names("log_variances", log_variances, losses)
    terms = {name: _term(name, loss, y_hat, y, options) for name, loss in losses.items()}
    given = {name: jnp.asarray(as_scalar(f"log_variances[{name!r}]", log_variances[name])) for name in terms}
    dtype = compute_dtype(*terms.values(), *given.values())
    total = jnp.zeros((), dtype)
    for name, term in terms.items():
        scale = 0.5 if likelihoods[name] == "gaussian" else 1.0
        log_variance = given[name].astype(dtype)
        total = total + scale * jnp.exp(-log_variance) * term.astype(dtype) + log_variance / 2
    return (total, terms) if return_terms else total


def init_log_variances(losses: Mapping[str, Callable]) -> dict:
    r"""The parameters of `make_uncertainty_weighted_loss` at the start: every log-variance 0, in float32.

    $$s_k = 0, \qquad \sigma_k = 1$$

    Args:
        losses: the losses, or anything else with their names as keys.

    Returns:
        A dict of float32 scalars by name.

    Reference: Kendall et al. 2018 (https://arxiv.org/abs/1705.07115), which trains the log-variances too.

    >>> print({name: float(value) for name, value in init_log_variances({"l1": None}).items()})
    {'l1': 0.0}
    """
    return {name: jnp.zeros((), jnp.float32) for name in losses}


def _term(name: str, loss: Callable, y_hat, y, options) -> jax.Array:
    term = jnp.asarray(loss(y_hat, y, **options))
    if term.ndim:
        raise ValueError(f"losses[{name!r}] must return a scalar; got {_checks.describe(term)}.")
    return term


def _without_gradient_at_0(weight: float | jax.Array, arguments):
    """The arguments of a loss, constants where its weight is 0: its own gradient of 0 would be 0 * inf."""
    if not isinstance(weight, jax.Array) and weight != 0.0:
        return arguments

    def constant_at_0(leaf):
        is_real = _checks.has_dtype(leaf, jnp.floating)
        return jnp.where(weight == 0.0, lax.stop_gradient(leaf), leaf) if is_real else leaf

    return jax.tree.map(constant_at_0, arguments)


def _check_losses(losses: Mapping[str, Callable]) -> None:
    if not losses:
        raise ValueError("losses must hold at least one loss; got none.")
    for name, loss in losses.items():
        if not callable(loss):
            raise TypeError(f"losses[{name!r}] must be callable with (y_hat, y); got {type(loss).__name__}.")


def _check_names(what: str, named: Mapping, losses: Mapping) -> None:
    if set(named) != set(losses):
        raise ValueError(f"{what} must have the names of losses, {sorted(losses)}; got {sorted(named)}.")
