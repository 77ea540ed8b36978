"""Make torch compute something slightly else: the mistakes that a port to JAX tends to contain.

Each is tried, and named where it makes torch agree with JAX.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from jaxloss.testing.diagnosis.factors import number
from jaxloss.testing.diagnosis.torch_calls import Call, Edit, is_setting, with_argument, with_option
from jaxloss.testing.diagnosis.torch_layers import (
    another_activation,
    another_axis,
    another_head,
    another_mask,
    another_scale,
)
from jaxloss.testing.diagnosis.torch_losses import another_ignored_label, another_smoothing

_EPSILONS = (1e-6, 1e-5, 1e-12, 1e-8, 1e-7, 1e-3, 1e-4, 0.0)
_NORMS = ("layer_norm", "group_norm", "rms_norm", "batch_norm", "instance_norm")
_GELU_FORMS = {"none": "the exact (erf) form", "tanh": "the tanh approximation"}
_ALONG_AN_AXIS = ("softmax", "log_softmax", "logsumexp", "mean", "sum", "argmax", "cosine_similarity")
# Functions whose first argument is logits.
_ON_LOGITS = (
    *("cross_entropy", "binary_cross_entropy_with_logits"),
    *("softmax", "log_softmax", "logsumexp", "sigmoid"),
)
# Functions that a port may leave out.
_TRANSFORMS = (
    *("softmax", "log_softmax", "sigmoid", "logsigmoid", "log", "exp"),
    *("sqrt", "abs", "tanh", "relu", "dropout"),
)
# Arguments that are data, not options.
_DATA = {"input", "target", "bias", "out", "dtype", "_stacklevel", "size_average", "reduce"}


def edits(calls: list[Call], scales: list[tuple[float, str]]) -> Iterator[Edit]:
    """The changes worth trying on these calls, the best known traps first.

    Args:
        calls: that the torch function makes.
        scales: factors that are easily forgotten, with their names.
    """
    for make in _MISTAKES:
        for call in calls:
            yield from make(call)
    for call in calls:
        yield from _scaled_logits(call, scales)


def _norm_eps(call: Call) -> Iterator[Edit]:
    """Another epsilon in a norm."""
    if call.name in _NORMS:
        present = call.options().get("eps", 1e-5)
        kind = "LayerNorm" if call.name == "layer_norm" else call.name
        for eps in _EPSILONS:
            if eps != present and present is not None:
                words = f"{kind} eps: JAX's is {eps:g}, torch's {present:g}"
                yield Edit(call.name, with_option("eps", eps), words)


def _gelu(call: Call) -> Iterator[Edit]:
    """The other of the two forms of GELU."""
    if call.name == "gelu":
        present = call.kwargs.get("approximate", "none")
        other = "none" if present == "tanh" else "tanh"
        words = f"GELU variant: JAX's is {_GELU_FORMS[other]}, torch's {_GELU_FORMS[present]}"
        yield Edit("gelu", with_option("approximate", other), words)


def _correction(call: Call) -> Iterator[Edit]:
    """A variance or standard deviation over N, not N - 1, or the other way round."""
    if call.name not in ("var", "std"):
        return

    def rewrite(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        options = {name: kwargs[name] for name in ("dim", "keepdim") if name in kwargs}
        if len(args) > 1 and not isinstance(args[1], bool):
            options["dim"] = args[1]
        return function(args[0], correction=int(is_biased), **{"dim": None, **options})

    flags = [a for a in call.args[1:3] if isinstance(a, bool)]
    is_biased = call.kwargs.get("correction", 1) == 0 or not call.kwargs.get("unbiased", all(flags))
    torchs, ours = ("N", "N - 1") if is_biased else ("N - 1", "N")
    words = f"wrong reduction denominator: torch's {call.name} divides by {torchs} here, JAX's by {ours}"
    yield Edit(call.name, rewrite, words)


def _options(call: Call) -> Iterator[Edit]:
    """Any option at another value."""
    try:
        parameters = inspect.signature(call.function).parameters
    except (ValueError, TypeError):
        return
    for name, present in call.options().items():
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        alternatives = next(of for is_kind, of in _OPTION_KINDS if is_kind(call, name, present))
        for other in alternatives(call, present, default):
            trap = "wrong reduction denominator: " if name == "reduction" else ""
            shown = f"{name}={present!r}" if is_setting(present) else f"a {name}"
            words = f"{trap}JAX has {name}={other!r} where torch's {call.name} has {shown}"
            yield Edit(call.name, with_option(name, other), words)


def _reductions(call: Call, present: Any, default: Any) -> list[Any]:
    choices = ("batchmean", "mean", "sum") if call.name == "kl_div" else ("mean", "sum")
    return [choice for choice in choices if choice != present]


def _default(call: Call, present: Any, default: Any) -> list[Any]:
    is_default = default is present or (is_setting(present) and default == present)
    return [] if default is inspect.Parameter.empty or is_default else [default]


# What else an option can be, by its kind: (whether it is of the kind, its alternatives).
_OPTION_KINDS: list[tuple[Callable[[Call, str, Any], bool], Callable[[Call, Any, Any], list[Any]]]] = [
    (lambda call, name, present: name == "reduction", _reductions),
    (lambda call, name, present: isinstance(present, bool), lambda call, present, default: [not present]),
    (lambda call, name, present: name in _DATA, lambda call, present, default: []),
    (lambda call, name, present: True, _default),
]


def _swapped_kl(call: Call) -> Iterator[Edit]:
    """The other direction of a KL divergence."""
    if call.name == "kl_div":

        def rewrite(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            log_q, p, rest = args[0], args[1] if len(args) > 1 else kwargs["target"], args[2:]
            kwargs = {name: value for name, value in kwargs.items() if name != "target"}
            swapped = (p, log_q) if kwargs.get("log_target") else (p.log(), log_q.exp())
            return function(*swapped, *rest, **kwargs)

        yield Edit(
            "kl_div", rewrite, "swapped KL arguments: JAX computes KL(q || p) where torch computes KL(p || q)"
        )


def _axes(call: Call) -> Iterator[Edit]:
    """A reduction or a softmax over another axis."""
    dim = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else None)
    if call.name in _ALONG_AN_AXIS and isinstance(dim, int) and not isinstance(dim, bool):
        rank = call.args[0].dim()
        for other in range(rank):
            if other != dim % rank:
                words = f"wrong axis: JAX's {call.name} is over axis {other}, torch's over {dim}"
                yield Edit(call.name, with_argument("dim", 1, other), words)


def _small_constants(call: Call) -> Iterator[Edit]:
    """Another epsilon in a sum or a clamp."""
    scalar = _scalar(call)
    if call.name not in ("add", "clamp", "clamp_min", "__radd__") or not 0.0 < scalar <= 1e-2:
        return
    for eps in (*_EPSILONS, 1e-10):
        if eps != scalar:

            def rewrite(function: Any, args: Any, kwargs: Any, eps: float = eps) -> Any:
                return function(*[eps if isinstance(a, float) else a for a in args], **kwargs)

            yield Edit(call.name, rewrite, f"epsilon: JAX's is {eps:g}, torch's {scalar:g}", scalar)


def _left_out(call: Call) -> Iterator[Edit]:
    """No function at all; for `cross_entropy`, no log-softmax in it."""
    if call.name in _TRANSFORMS:
        words = f"missing {call.name}: JAX leaves out torch's {call.name}"
        yield Edit(call.name, lambda function, args, kwargs: args[0], words)
    elif call.name == "cross_entropy":

        def without_log_softmax(function: Any, args: Any, kwargs: Any) -> Any:
            from torch.nn.functional import nll_loss

            return nll_loss(*args, **{k: v for k, v in kwargs.items() if k != "label_smoothing"})

        words = "missing log_softmax: JAX treats the logits as log-probabilities"
        yield Edit(call.name, without_log_softmax, words)


def _unscaled(call: Call) -> Iterator[Edit]:
    """No multiplication or division by a number."""
    scalar = _scalar(call)
    verbs = dict.fromkeys(("mul", "multiply"), "multiplication by")
    verbs |= dict.fromkeys(("div", "true_divide", "divide"), "division by")
    if call.name in verbs and scalar not in (0.0, 1.0):

        def rewrite(function: Any, args: Any, kwargs: Any) -> Any:
            return next(a for a in args if not isinstance(a, (int, float)))

        words = f"missing scale: the two agree when torch's {verbs[call.name]} {number(scalar)} is left out"
        yield Edit(call.name, rewrite, words, scalar)


# The best known traps first.
_MISTAKES: list[Callable[[Call], Iterator[Edit]]] = [
    _norm_eps,
    _gelu,
    another_scale,
    another_mask,
    another_axis,
    another_head,
    another_activation,
    _correction,
    another_ignored_label,
    another_smoothing,
    _options,
    _swapped_kl,
    _axes,
    _small_constants,
    _left_out,
    _unscaled,
]


def _scaled_logits(call: Call, scales: list[tuple[float, str]]) -> Iterator[Edit]:
    """Logits with another scale."""
    if call.name not in _ON_LOGITS:
        return
    for scale, words in scales:

        def rewrite(function: Any, args: Any, kwargs: Any, scale: float = scale) -> Any:
            return function(args[0] * scale, *args[1:], **kwargs)

        said = f"missing scale: the two agree when torch's {call.name} gets its input times {words}"
        yield Edit(call.name, rewrite, said)


def _scalar(call: Call) -> float:
    """The number that a tensor is combined with; 0 where there is none."""
    scalars = [a for a in call.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
    return float(scalars[0]) if len(scalars) == 1 and len(call.args) == 2 else 0.0
