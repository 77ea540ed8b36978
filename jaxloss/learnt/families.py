"""Families of losses: each is a pair of parameters to begin with and a loss that they shape.

The losses take `(params, y_hat, y)` and the options of docs/conventions.md that their docstring names.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxloss import _checks
from jaxloss._checks import Scalar
from jaxloss._reduction import reduce_loss, select
from jaxloss.fused.linear_loss import make_linear_loss
from jaxloss.losses import _rows
from jaxloss.losses._elements import elementwise_arguments
from jaxloss.losses.compose import make_hybrid_loss
from jaxloss.numerics.decaying_integral import decaying_integral
from jaxloss.numerics.softmax import Classes, label_cross_entropy

__all__ = ["Family", "gce", "make_linear_family", "mixture", "mlp", "taylor"]

_KINDS = ("classes", "real")


class Family(NamedTuple):
    """A loss with parameters; `loss(params, y_hat, y)` is one of the family's losses."""

    params: Any
    loss: Callable


def gce(q: Scalar = 0.0) -> Family:
    r"""Generalised cross entropy: cross entropy at q = 0, and 1 - p, which wrong labels harm less, at q = 1.

    $$\ell_n = \frac{1 - p_n^q}{q} = \int_0^{-\log p_n} e^{-q t}\, dt$$

    Exact, with its derivatives by logits and q, also where q is or passes 0 and p is near 0 or 1.

    Args:
        q: to begin with, in [0, 1]. Learnt, it may leave this range: below 0 the loss is steeper than cross
            entropy, above 1 flatter than 1 - p.

    Returns:
        `params` is `{"q": q}`. The loss takes logits and labels, and the options `ignore_index`,
        `reduction`, `where`, `sample_weight` and `axis`.

    Reference: Zhang and Sabuncu 2018, "Generalized Cross Entropy Loss for Training Deep Neural Networks with
    Noisy Labels", equation 6 (https://arxiv.org/abs/1805.07836).

    >>> import jax.numpy as jnp
    >>> params, loss = gce(1.0)
    >>> print(loss(params, jnp.zeros((1, 4)), jnp.array([3])))  # 1 - 1 / 4
    0.75
    """
    q = jnp.asarray(_checks.as_scalar("q", q, low=0.0, high=1.0), jnp.float32)
    return Family({"q": q}, partial(_of_labels, _gce))


def taylor(order: int = 3, *, kind: str = "classes") -> Family:
    r"""A polynomial of target and prediction, its centre and coefficients learnt (TaylorGLO).

    $$\ell = -\sum_c f(x_c, y_c), \qquad
    f(x, y) = \sum_{b \ge 1,\, a + b \le k} \theta_{ab} \frac{(x - \theta_x)^a (y - \theta_y)^b}{a!\, b!}$$

    Terms of the target alone, which have no gradient, are left out. It begins as the expansion of cross
    entropy at a sure and right prediction, $\sum_{j<k} (1 - p)^j / j$ and a constant, or, with "real", as
    the squared error.

    Args:
        order: $k \ge 2$; the paper has 3.
        kind: "classes", where $y$ is the softmax of the logits, $x$ the one-hot label, and the sum is over
            the classes, without the paper's division by their number; or "real", where each element is by
            itself.

    Returns:
        `params` is `{"centre": [2], "coefficients": [k (k + 1) / 2]}`, the latter by rising b, then a. The
        loss takes, with "classes", what that of `gce` takes; with "real", `reduction` and `where`.

    Reference: Gonzalez and Miikkulainen 2021, "Optimizing Loss Functions Through Multi-Variate Taylor
    Polynomial Parameterization" (https://arxiv.org/abs/2002.00059).

    >>> import jax.numpy as jnp
    >>> params, loss = taylor(2)
    >>> print(loss(params, jnp.zeros((1, 4)), jnp.array([3])))  # (1 - 1 / 4), less the constant
    0.75
    """
    order = _checks.check_integer("order", order, low=2)
    _checks.check_choice("kind", kind, _KINDS)
    start = {(1, b): (-1.0) ** (b - 1) * math.factorial(b - 1) for b in range(1, order)}
    if kind == "real":
        start = {(1, 1): 2.0, (0, 2): -2.0}
    coefficients = jnp.array([start.get(term, 0.0) for term in _terms(order)], jnp.float32)
    centre = jnp.array([0.0, 1.0 if kind == "classes" else 0.0], jnp.float32)
    return _of_pairs(kind, partial(_taylor, order), {"centre": centre, "coefficients": coefficients})


def mlp(key: Key[Array, ""], hidden_sizes: Sequence[int] = (40, 40), *, kind: str = "classes") -> Family:
    r"""A small network of target and prediction, never below 0 (ML³).

    $$\ell = \sum_c \mathrm{softplus}\big(\mathrm{MLP}(x_c, y_c)\big)$$

    Args:
        key: of the weights, normal with variance 1 / fan-in; biases begin at 0.
        hidden_sizes: widths of the hidden layers, whose activation is SiLU, so that the loss is smooth.
        kind: as for `taylor`.

    Returns:
        `params` is a list with a `{"bias": [out], "weight": [out, in]}` for each layer. The loss's options
        are those of `taylor`.

    Reference: Bechtle et al. 2021, "Meta Learning via Learned Loss" (https://arxiv.org/abs/1906.05374).

    >>> import jax, jax.numpy as jnp
    >>> params, loss = mlp(jax.random.key(0), [8])
    >>> print(loss(params, jnp.zeros((2, 4)), jnp.array([3, 1]), reduction="none").shape)
    (2,)
    """
    _checks.check_choice("kind", kind, _KINDS)
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a JAX key, such as jax.random.key(0); got {key!r}.")
    sizes = [_checks.check_integer("hidden_sizes", size, low=1) for size in hidden_sizes]
    params, fan_in = [], 2
    for size, layer_key in zip([*sizes, 1], jax.random.split(key, len(sizes) + 1), strict=True):
        weight = jax.random.normal(layer_key, (size, fan_in), jnp.float32) / math.sqrt(fan_in)
        params.append({"bias": jnp.zeros(size, jnp.float32), "weight": weight})
        fan_in = size
    return _of_pairs(kind, _mlp, params)


def mixture(losses: Mapping[str, Callable]) -> Family:
    r"""A sum of losses, their weights learnt and above 0.

    $$L = \sum_k e^{s_k} L_k(\hat y, y)$$

    Args:
        losses: functions of `(y_hat, y)` that return a scalar, by name.

    Returns:
        `params` is the dict of the $s_k$, 0 to begin with. The loss is `make_hybrid_loss`'s, with its
        options.

    Reference: Gonzalez and Miikkulainen 2021 (https://arxiv.org/abs/2002.00059), for what is learnt.

    >>> import jax.numpy as jnp
    >>> from jaxloss import l1_loss, mse_loss
    >>> params, loss = mixture({"l1": l1_loss, "l2": mse_loss})
    >>> print(loss(params, jnp.array([2.0]), jnp.array([5.0])))
    12.0
    """
    make_hybrid_loss(losses, dict.fromkeys(losses, 1.0))  # checks them
    return Family({name: jnp.zeros((), jnp.float32) for name in losses}, partial(_mixture, dict(losses)))


def make_linear_family(family: tuple[Any, Callable]) -> Family:
    """Make a family of logits one of hidden states and head, whose logits are never whole in memory.

    Args:
        family: whose loss has the option `reduction="none"`, as those of `gce`, `taylor` and `mlp` have.

    Returns:
        The same parameters, and `loss(params, (input, linear_weight), y, **options)`, whose options are those
        of `make_linear_loss`.

    Reference: as for `make_linear_loss`.

    >>> import jax.numpy as jnp
    >>> params, loss = make_linear_family(gce(1.0))
    >>> print(loss(params, (jnp.ones((2, 8)), jnp.zeros((4, 8))), jnp.array([3, 1])))
    0.75
    """
    params, loss = family
    return Family(params, partial(_linear, loss))


def _linear(loss: Callable, params: Any, y_hat: tuple[jax.Array, jax.Array], y: jax.Array, **options) -> Any:
    def of_logits(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return loss(params, logits, labels, reduction="none")

    return make_linear_loss(of_logits)(*y_hat, y, **options)


def _mixture(losses: dict[str, Callable], params: Mapping[str, jax.Array], y_hat, y, **options) -> Any:
    return make_hybrid_loss(losses, {name: jnp.exp(s) for name, s in params.items()})(y_hat, y, **options)


def _of_labels(
    row_losses: Callable,
    params,
    y_hat,
    y,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    where=None,
    sample_weight=None,
    axis: int = -1,
) -> Any:
    """The loss whose rows' values are `row_losses(params, rows)`, with the parameters in the rows' dtype."""
    rows = _rows.label_rows(y_hat, y, None, ignore_index, where, sample_weight, axis)
    _rows.check_classes(rows.input, rows.axis)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, rows.logits.dtype), params)
    return _rows.reduce_weighted(row_losses(params, rows), reduction, rows.valid, rows.weight)


def _gce(params, rows: _rows.LabelRows) -> jax.Array:
    nll = label_cross_entropy(rows.logits, rows.labels, rows.valid, Classes(rows.axis))
    return decaying_integral(jnp.broadcast_to(params["q"], nll.shape), nll)


def _of_pairs(kind: str, of_pairs: Callable, params: Any) -> Family:
    """The family whose losses are of one target and one prediction, summed over the classes, if any."""
    if kind == "classes":
        return Family(params, partial(_of_labels, partial(_over_classes, of_pairs)))
    return Family(params, partial(_of_reals, of_pairs))


def _over_classes(of_pairs: Callable, params: Any, rows: _rows.LabelRows) -> jax.Array:
    logits = select(rows.valid, rows.logits, axis=rows.axis)
    one_hot = Classes(rows.axis).is_label(logits, rows.labels).astype(logits.dtype)
    return jnp.sum(of_pairs(params, one_hot, jax.nn.softmax(logits, rows.axis)), rows.axis)


def _of_reals(of_pairs: Callable, params: Any, y_hat, y, *, reduction: str = "mean", where=None) -> Any:
    (prediction, target), where = elementwise_arguments(reduction, where, y_hat=y_hat, y=y, integers=("y",))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, prediction.dtype), params)
    return reduce_loss(of_pairs(params, target, prediction), reduction, where)


def _terms(order: int) -> list[tuple[int, int]]:
    """The powers of target and prediction, in the order of the coefficients."""
    return [(a, b) for b in range(1, order + 1) for a in range(order - b + 1)]


def _taylor(order: int, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    dx, dy = x - params["centre"][0], y - params["centre"][1]
    coefficients = dict(zip(_terms(order), params["coefficients"], strict=True))
    total = jnp.zeros_like(dy)
    for b in reversed(range(1, order + 1)):
        of_x = jnp.zeros_like(dx)
        for a in reversed(range(order - b + 1)):
            of_x = coefficients[a, b] / (math.factorial(a) * math.factorial(b)) + dx * of_x
        total = dy * (of_x + total)
    return -total


def _mlp(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    units = jnp.stack([x, y], -1)
    for layer in params[:-1]:
        units = jax.nn.silu(units @ layer["weight"].T + layer["bias"])
    return jax.nn.softplus(units @ params[-1]["weight"][0] + params[-1]["bias"][0])
