"""Check that an optimizer of optax's takes the steps of one of torch's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss._checks import check_integer, check_number
from jaxloss.interop import to_numpy, to_torch
from jaxloss.testing import _jax, _torch
from jaxloss.testing._update_rules import explain, read_rule
from jaxloss.testing.inputs import cast, draw_inputs, is_floating, normal
from jaxloss.testing.measure import GRADIENT_EPS_OF_MAX, difference
from jaxloss.testing.report import Comparison, ParityReport

_ALLOWED = GRADIENT_EPS_OF_MAX["float64"]

# The search for a cause takes some hundreds of runs.
_MAX_WEIGHTS_TO_EXPLAIN = 10_000


def assert_step_parity(
    optax_optimizer: Any,
    torch_optimizer: Any,
    *,
    params: Any = None,
    num_steps: int = 6,
    max_norm: float | None = None,
    clip_eps: float = 1e-6,
    seed: int = 0,
) -> ParityReport:
    """Fail unless optax and torch, given the same gradients, give the same weights after every step.

    Both compute in float64. The gradients are of many sizes, so that every eps shows. A cause is named if
    torch's arithmetic, with one or two settings changed to usual values, gives JAX's weights.

    Args:
        optax_optimizer: an `optax.GradientTransformation`, with the clipping and the schedule in it.
        torch_optimizer: a function from a list of parameters to an optimizer, such as
            `lambda p: torch.optim.AdamW(p, lr=1e-3)`, or to an optimizer and its scheduler, which steps
            after it; or an optimizer with one group, whose class and settings are taken. It is left as it is.
        params: a tree of arrays or specs to optimize, if weight decay depends on their names or shapes; torch
            gets the leaves as a list, in JAX's layout. By default a matrix and a vector.
        num_steps: to take.
        max_norm: that `torch.nn.utils.clip_grad_norm_` clips torch's gradients to, before each step.
        clip_eps: that clipping adds to the norm on torch's side: 1e-6, or 0 to have it as optax.
        seed: of parameters and gradients.

    Returns:
        The report, of one comparison for each parameter.

    Raises:
        AssertionError: they differ; the message says where, and the likely cause.
        TypeError: an argument is of another kind.
        ValueError: an option is out of range, or torch's weights become infinite or NaN.

    >>> import optax, torch
    >>> assert_step_parity(optax.adam(1e-3), lambda p: torch.optim.Adam(p, lr=1e-3)).passed
    True
    >>> report = check_step_parity(optax.adamw(1e-3), lambda p: torch.optim.AdamW(p, lr=1e-3))
    >>> report.cause
    "weight decay: JAX's is 0.0001, torch's 0.01"
    """
    report = check_step_parity(
        optax_optimizer,
        torch_optimizer,
        params=params,
        num_steps=num_steps,
        max_norm=max_norm,
        clip_eps=clip_eps,
        seed=seed,
    )
    if not report.passed:
        raise AssertionError(report.text())
    return report


def check_step_parity(
    optax_optimizer: Any,
    torch_optimizer: Any,
    *,
    params: Any = None,
    num_steps: int = 6,
    max_norm: float | None = None,
    clip_eps: float = 1e-6,
    seed: int = 0,
) -> ParityReport:
    """Compare two optimizers without raising when they differ; the arguments are `assert_step_parity`'s."""
    num_steps = check_integer("num_steps", num_steps, low=1)
    if max_norm is not None:
        max_norm = check_number("max_norm", max_norm, low=0.0, open_low=True)
    clip_eps = check_number("clip_eps", clip_eps, low=0.0)
    check_optax("optax_optimizer", optax_optimizer)
    make = as_factory(torch_optimizer)
    tree = {"kernel": normal(4, 3), "bias": normal(3)} if params is None else params
    tree = cast(draw_inputs((tree,), seed)[0], "float64")
    named = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    wrong = [name for name, leaf in named.items() if not is_floating(leaf)]
    if wrong or not named:
        got = f"others at {', '.join(wrong)}" if wrong else "none"
        raise TypeError(f"params must hold arrays of floating-point numbers; got {got}")
    gradients = [_draw_gradients(tree, max_norm, [seed, step]) for step in range(num_steps)]
    ours_SW = _run_jax(optax_optimizer, tree, gradients)
    theirs_SW, groups, kind = _run_torch(make, tree, gradients, max_norm, clip_eps)
    if not np.isfinite(theirs_SW).all():
        raise ValueError("torch's weights must stay finite; lower its learning rate")

    comparisons, end = [], 0
    for name, leaf in named.items():
        start, end = end, end + leaf.size
        both = [(weights_SW[:, start:end].reshape(-1, *leaf.shape)) for weights_SW in (ours_SW, theirs_SW)]
        comparisons.append(_compare(name, *both))
    cause = None
    if not all(c.passed for c in comparisons) and theirs_SW.shape[1] <= _MAX_WEIGHTS_TO_EXPLAIN:
        cause = _cause(groups, kind, tree, gradients, ours_SW, theirs_SW, max_norm, clip_eps)
    return ParityReport(f"optax against torch's {kind}, {num_steps} steps", tuple(comparisons), cause)


def check_optax(argument: str, optimizer: Any) -> None:
    """Raise TypeError unless this is an optimizer of optax's kind."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        got = getattr(optimizer, "__name__", type(optimizer).__name__)
        raise TypeError(f"{argument} must be an optax optimizer, such as optax.adamw(1e-3); got {got}")


def as_factory(torch_optimizer: Any) -> Callable[[list[Any]], tuple[Any, Any]]:
    """The function from parameters to an optimizer and its scheduler, or None; see `assert_step_parity`."""
    import torch

    expected = "torch_optimizer must be a function from a list of parameters to a torch optimizer"
    if isinstance(torch_optimizer, torch.optim.Optimizer):
        first, *others = torch_optimizer.param_groups
        if others:
            raise TypeError(f"{expected}; got an optimizer, which may have one group, with {1 + len(others)}")
        settings = {name: first[name] for name in torch_optimizer.defaults if name in first}
        chosen = type(torch_optimizer)
        # Adam's class has a name for it, and AdamW refuses the setting.
        if chosen is torch.optim.AdamW:
            settings.pop("decoupled_weight_decay", None)
        return lambda parameters: (chosen(parameters, **settings), None)
    if not callable(torch_optimizer):
        raise TypeError(f"{expected}; got {type(torch_optimizer).__name__}")

    def make(parameters: list[Any]) -> tuple[Any, Any]:
        made = torch_optimizer(parameters)
        optimizer, scheduler = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"{expected}; it returned {type(optimizer).__name__}")
        return optimizer, scheduler

    return make


def clip_gradients(parameters: list[Any], max_norm: float | None, clip_eps: float) -> None:
    """Clip torch's gradients to a norm, by its own function unless another eps is asked for."""
    import torch

    if max_norm is None:
        return
    if clip_eps == 1e-6:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    scale = max_norm / (torch.nn.utils.get_total_norm(gradients) + clip_eps)
    for gradient in gradients:
        gradient.mul_(scale.clamp(max=1.0))


def _draw_gradients(tree: Any, max_norm: float | None, seed: list[int]) -> Any:
    """Of sizes from 1e-4 to 10, and where torch clips, of a norm above and below in turn."""
    rng = np.random.default_rng([*seed, 2])
    drawn = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape) * 10 ** rng.uniform(-4, 1, leaf.shape), tree
    )
    if max_norm is None:
        return drawn
    length = np.linalg.norm(_flat(drawn))
    scale = max_norm * (0.5 if seed[-1] % 3 == 1 else 3.0) / length
    return jax.tree.map(lambda leaf: leaf * scale, drawn)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(to_numpy(leaf)) for leaf in jax.tree.leaves(tree)])


def _run_jax(optimizer: Any, params: Any, gradients: list[Any]) -> np.ndarray:
    """The weights after each step, [S, W]."""

    @jax.jit
    def take(state: Any, params: Any, gradients: Any) -> Any:
        updates, state = optimizer.update(gradients, state, params)
        return state, jax.tree.map(lambda p, u: p + u, params, updates)

    taken = []
    with _jax.settings("float64"):
        params = jax.tree.map(jnp.asarray, params)
        state = optimizer.init(params)
        for gradient in gradients:
            state, params = take(state, params, gradient)
            taken.append(_flat(params))
    return np.stack(taken)


def _run_torch(
    make: Callable[[list[Any]], tuple[Any, Any]],
    params: Any,
    gradients: list[Any],
    max_norm: float | None,
    clip_eps: float,
) -> tuple[np.ndarray, list[dict[str, Any]], str]:
    """The weights after each step, [S, W]; its groups, with their rates [S + 1]; its class."""
    import torch

    with _torch.settings("float64", "cpu", seed=0):
        parameters = [torch.nn.Parameter(to_torch(leaf)) for leaf in jax.tree.leaves(params)]
        optimizer, scheduler = make(parameters)
        rates: list[list[float]] = [[float(group["lr"])] for group in optimizer.param_groups]
        taken = []
        for gradient in gradients:
            for parameter, array in zip(parameters, jax.tree.leaves(gradient), strict=True):
                parameter.grad = to_torch(array)
            clip_gradients(parameters, max_norm, clip_eps)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            for own, group in zip(rates, optimizer.param_groups, strict=True):
                own.append(float(group["lr"]))
            taken.append(_flat([*parameters]))
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    groups = [
        {**group, "rates": own, "places": [places[id(p)] for p in group["params"]]}
        for group, own in zip(optimizer.param_groups, rates, strict=True)
    ]
    return np.stack(taken), groups, type(optimizer).__name__


def _compare(name: str, ours: np.ndarray, theirs: np.ndarray) -> Comparison:
    """One parameter, after the first step in which it differs, or after the step of its largest error."""
    found = [difference(a, b) for a, b in zip(ours, theirs, strict=True)]
    errors = [difference.eps_of_max for difference in found]
    step = next((s for s, error in enumerate(errors) if error > _ALLOWED), int(np.argmax(errors)))
    what = f"{name} after step {step + 1}"
    return Comparison(what, "float64", errors[step], _ALLOWED, errors[step] <= _ALLOWED, found[step])


def _cause(
    groups: list[dict[str, Any]],
    kind: str,
    params: Any,
    gradients: list[Any],
    ours_SW: np.ndarray,
    theirs_SW: np.ndarray,
    max_norm: float | None,
    clip_eps: float,
) -> str | None:
    leaves = jax.tree.leaves(params)
    group_of = {place: group for group in groups for place in group["places"]}
    if len(group_of) < len(leaves):
        return None

    def spread(of: Callable[[int], Any]) -> np.ndarray:
        """A number, or a row of them, for each weight of each leaf."""
        return np.concatenate([np.tile(of(i), (leaf.size, 1)) for i, leaf in enumerate(leaves)]).T

    rule = read_rule(
        groups,
        kind,
        rates_SW=spread(lambda i: group_of[i]["rates"]),
        decay_W=spread(lambda i: group_of[i].get("weight_decay", 0.0))[0],
        is_matrix_W=spread(lambda i: leaves[i].ndim > 1)[0],
        max_norm=max_norm,
        clip_eps=clip_eps,
    )
    if rule is None:
        return None
    start_W, gradients_SW = _flat(params), np.stack([_flat(gradient) for gradient in gradients])
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def agree(ours: np.ndarray, theirs: np.ndarray) -> bool:
        return all(
            difference(a, b).eps_of_max <= _ALLOWED
            for one, other in zip(ours, theirs, strict=True)
            for a, b in zip(np.split(one, ends), np.split(other, ends), strict=True)
        )

    # Else the rule is not what torch does, and a change of it says nothing.
    if not agree(rule.run(start_W, gradients_SW), theirs_SW):
        return None
    return explain(rule, start_W, gradients_SW, lambda weights_SW: agree(weights_SW, ours_SW))
