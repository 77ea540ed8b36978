"""The gradient of how training ends, by the parameters of the loss that was trained with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss import _checks

__all__ = ["make_meta_step"]

_ESTIMATORS = ("unroll", "truncated", "es")

_Batch = tuple[Any, Any]


def make_meta_step(
    family: tuple[Any, Callable],
    inner_optimizer: Any,
    outer_loss: Callable,
    num_inner_steps: int,
    estimator: str = "unroll",
    *,
    apply_fn: Callable,
    truncation: int | None = None,
    num_pairs: int = 8,
    sigma: float = 0.01,
) -> Callable:
    r"""Make the function that trains a model with a learnt loss, and says how to change the loss.

    $$F(\phi) = L_\text{outer}(\theta_N), \qquad \theta_{i+1} = \theta_i - u(\nabla_\theta
    L_\phi(\theta_i)), \qquad \text{gradient} = \nabla_\phi F$$

    Args:
        family: the loss to learn, `(params, loss(params, y_hat, y))`: of `jaxloss.learnt`, or one's own. The
            loss returns a scalar.
        inner_optimizer: of the model: any of optax. Adam needs `eps_root` above 0: the derivative of its
            square root is infinite at a weight whose gradient is 0.
        outer_loss: what the training is for, a function of `(y_hat, y)` that returns a scalar.
        num_inner_steps: $N$, the updates of the model.
        estimator: of the gradient. "unroll" differentiates all updates, each made anew on the way back, so
            that only weights and optimizer states are kept, N times. "truncated" differentiates the last
            `truncation` updates: less memory and time, and a bias that falls with it. "es" differentiates
            nothing: antithetic evolution strategies, whose mean is the gradient of F blurred by normal noise
            of width `sigma`; for losses without a useful derivative, such as an error rate, or many steps.
        apply_fn: the model, `apply_fn(model_params, inputs) -> y_hat`.
        truncation: with "truncated", the number of updates to differentiate, at most N.
        num_pairs: with "es", the pairs of opposite perturbations, trained side by side.
        sigma: with "es", the perturbations' standard deviation.

    Returns:
        `meta_step(loss_params, model_params, batches, held_out, key=None) -> (value, gradient)`, compiled.
        It trains a model from `model_params` on `batches`, `(inputs, targets)` with one more axis before the
        batch's, gone through in turn and again until N updates are made. The value is `outer_loss` on
        `held_out`, `(inputs, targets)`; with "es", the mean over the perturbed losses. The gradient is by
        `loss_params`. `key` is needed with "es" only. `jax.vmap` goes over tasks.

    Raises:
        ValueError, TypeError: before anything is compiled.

    Reference: Bechtle et al. 2021, algorithm 1 (https://arxiv.org/abs/1906.05374), for the unroll; Shaban et
    al. 2019 (https://arxiv.org/abs/1810.10667) for the truncation; Salimans et al. 2017
    (https://arxiv.org/abs/1703.03864), section 2, for the evolution strategies.

    >>> import jax.numpy as jnp, optax
    >>> from jaxloss import mse_loss
    >>> from jaxloss.learnt import mixture
    >>> def model(weight, x):
    ...     return weight * x
    >>> family, one = mixture({"l2": mse_loss}), jnp.ones(1)
    >>> meta_step = make_meta_step(family, optax.sgd(0.1), mse_loss, 2, apply_fn=model)
    >>> batches, held_out = (one[None], one[None]), (one, one)
    >>> value, gradient = meta_step(family[0], jnp.zeros(()), batches, held_out)
    >>> print(f"{value:.4f} {gradient['l2']:.4f}")  # 0.8^4, and its slope -4 * 0.8^3 * 0.2
    0.4096 -0.4096
    """
    params, loss = _checked_family(family)
    structure = jax.tree.structure(params)
    if not all(callable(getattr(inner_optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(f"inner_optimizer must be one of optax; got {inner_optimizer!r}.")
    for name, value in {"outer_loss": outer_loss, "apply_fn": apply_fn}.items():
        if not callable(value):
            raise TypeError(f"{name} must be a function; got {value!r}.")
    num_inner_steps = _checks.check_integer("num_inner_steps", num_inner_steps, low=1)
    _checks.check_choice("estimator", estimator, _ESTIMATORS)
    if (estimator == "truncated") != (truncation is not None):
        raise ValueError(f'truncation must be given with estimator="truncated" alone; got {truncation!r}.')
    if truncation is not None:
        truncation = _checks.check_integer("truncation", truncation, low=1, high=num_inner_steps)
    num_pairs = _checks.check_integer("num_pairs", num_pairs, low=1)
    sigma = _checks.check_number("sigma", sigma, low=0.0, open_low=True, open_high=True)

    run = _Training(loss, inner_optimizer, outer_loss, apply_fn, num_inner_steps, truncation)
    if estimator == "es":
        compiled = jax.jit(partial(_evolution_strategies, run, num_pairs, sigma))
    else:
        compiled = jax.jit(lambda *arguments: jax.value_and_grad(run)(*arguments[:-1]))

    def meta_step(
        loss_params: Any, model_params: Any, batches: _Batch, held_out: _Batch, key: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        given: Any = jax.tree.structure(loss_params)
        if given != structure:
            raise ValueError(
                f"loss_params must have the structure of the family's, {structure}; got {given}."
            )
        if estimator == "es" and key is None:
            raise ValueError(
                'key must be given with estimator="es": jax.random.key(0), another at each call.'
            )
        batch = _first(batches)
        _check_scalar("the family's loss", partial(loss, loss_params), apply_fn, model_params, batch)
        _check_scalar("outer_loss", outer_loss, apply_fn, model_params, _pair("held_out", held_out))
        return compiled(loss_params, model_params, batches, held_out, key)

    return meta_step


@dataclass(frozen=True)
class _Training:
    """What `make_meta_step` was given; called, it trains and returns the outer loss."""

    loss: Callable
    optimizer: Any
    outer_loss: Callable
    apply_fn: Callable
    num_steps: int
    truncation: int | None

    def __call__(self, loss_params: Any, model_params: Any, batches: _Batch, held_out: _Batch) -> jax.Array:
        first = 0 if self.truncation is None else self.num_steps - self.truncation
        carry = model_params, self.optimizer.init(model_params)
        carry = self._train(lax.stop_gradient(loss_params), carry, batches, 0, first)
        params, _ = self._train(loss_params, carry, batches, first, self.num_steps)
        inputs, targets = held_out
        return self.outer_loss(self.apply_fn(params, inputs), targets)

    def _train(self, loss_params: Any, carry: Any, batches: _Batch, first: int, last: int) -> Any:
        import optax

        num_batches = len(jax.tree.leaves(batches)[0])

        def update(carry: Any, step: jax.Array) -> tuple[Any, None]:
            params, state = carry
            inputs, targets = jax.tree.map(lambda leaf: leaf[step % num_batches], batches)
            grads = jax.grad(lambda params: self.loss(loss_params, self.apply_fn(params, inputs), targets))(
                params
            )
            updates, state = self.optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        # In a loop, nothing is merged across the barrier that `prevent_cse` would put in its way.
        return lax.scan(jax.checkpoint(update, prevent_cse=False), carry, jnp.arange(first, last))[0]


def _evolution_strategies(
    run: Callable, num_pairs: int, sigma: float, loss_params: Any, *task_and_key: Any
) -> tuple[jax.Array, Any]:
    """The mean of F at perturbed parameters, and of `(F(phi + sigma e) - F(phi - sigma e)) e / (2 sigma)`."""
    *task, key = task_and_key
    leaves, tree = jax.tree.flatten(loss_params)
    keys = jax.tree.unflatten(tree, list(jax.random.split(key, len(leaves))))
    noise = jax.tree.map(lambda p, k: jax.random.normal(k, (num_pairs, *p.shape), p.dtype), loss_params, keys)

    def at(scale: float, noise: Any) -> jax.Array:
        return run(jax.tree.map(lambda p, direction: p + scale * direction, loss_params, noise), *task)

    above, below = (jax.vmap(partial(at, scale))(noise) for scale in (sigma, -sigma))
    slopes = (above - below) / (2 * sigma)
    gradient = jax.tree.map(lambda e: jnp.tensordot(slopes.astype(e.dtype), e, 1) / num_pairs, noise)
    return jnp.mean((above + below) / 2), gradient


def _checked_family(family: Any) -> tuple[Any, Callable]:
    if not isinstance(family, tuple) or len(family) != 2 or not callable(family[1]):
        raise TypeError(
            f"family must be a pair (params, loss), such as learnt.gce(); got {type(family).__name__}."
        )
    for leaf in jax.tree.leaves(family[0]):
        _checks.as_floats("family's params", leaf)
    return family


def _pair(name: str, value: Any) -> _Batch:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (inputs, targets); got {type(value).__name__}.")
    return value[0], value[1]


def _first(batches: Any) -> _Batch:
    """The shapes of the first batch."""
    sizes = sorted({jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(_pair("batches", batches))})
    if len(sizes) != 1 or sizes[0] in ((), (0,)):
        raise ValueError(
            "batches must have one first axis, with an entry for each batch; got arrays whose shapes begin "
            f"with {', '.join(str(list(size)) for size in sizes)}. Of a single batch, pass array[None]."
        )
    return jax.eval_shape(lambda batches: jax.tree.map(lambda leaf: leaf[0], batches), tuple(batches))


def _check_scalar(name: str, loss: Callable, apply_fn: Callable, model_params: Any, batch: _Batch) -> None:
    value = jax.eval_shape(
        lambda params, batch: loss(apply_fn(params, batch[0]), batch[1]), model_params, batch
    )
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape:
        came = _checks.describe(value) if isinstance(value, jax.ShapeDtypeStruct) else type(value).__name__
        raise ValueError(f'{name} must return a scalar; got {came}. jaxloss\'s do with reduction="mean".')
