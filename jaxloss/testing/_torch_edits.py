"""Make torch compute something slightly else: the mistakes that a port to JAX tends to contain.

Each is tried, and named where it makes torch agree with JAX.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from jaxloss.testing._torch_calls import Call, Edit, is_setting, only_for, with_argument, with_option
from jaxloss.testing.factors import number

_EPSILONS = (1e-6, 1e-5, 1e-12, 1e-8, 1e-7, 1e-3, 1e-4, 0.0)
_NORMS = ("layer_norm", "group_norm", "rms_norm", "batch_norm", "instance_norm")
_SCALES = ("mul", "div", "true_divide", "__rdiv__", "multiply", "divide")
_SPREADS = ("var", "std")
# Functions whose first argument is logits.
_ON_LOGITS = (
    "cross_entropy",
    "log_softmax",
    "softmax",
    "binary_cross_entropy_with_logits",
    "logsumexp",
    "sigmoid",
)
_TRANSFORMS = (
    "softmax",
    "log_softmax",
    "sigmoid",
    "logsigmoid",
    "log",
    "exp",
    "sqrt",
    "abs",
    "tanh",
    "relu",
    "dropout",
)
# Arguments that are data, not options.
_DATA = {"input", "target", "weight", "bias", "out", "dtype", "_stacklevel", "size_average", "reduce"}


def edits(calls: list[Call], scales: list[tuple[float, str]]) -> Iterator[Edit]:
    """The changes worth trying on these calls, the best known traps first."""
    for make in (
        _epsilons,
        _gelu,
        _correction,
        _options,
        _swapped_kl,
        _axes,
        _constants,
        _identity,
        _left_out,
    ):
        for call in calls:
            yield from make(call)
    for call in calls:
        yield from _scaled_logits(call, scales)


def _epsilons(call: Call) -> Iterator[Edit]:
    if call.name in _NORMS:
        present = call.options().get("eps", 1e-5)
        kind = {"layer_norm": "LayerNorm"}.get(call.name, call.name)
        for eps in _EPSILONS:
            if eps != present and present is not None:
                words = f"{kind} eps: JAX's is {eps:g}, torch's {present:g}"
                yield Edit(call.name, with_option("eps", eps), words)


def _gelu(call: Call) -> Iterator[Edit]:
    if call.name == "gelu":
        present = call.kwargs.get("approximate", "none")
        other = "none" if present == "tanh" else "tanh"
        names = {"none": "the exact (erf) form", "tanh": "the tanh approximation"}
        yield Edit(
            "gelu",
            with_option("approximate", other),
            f"GELU variant: JAX's is {names[other]}, torch's {names[present]}",
        )


def _correction(call: Call) -> Iterator[Edit]:
    if call.name not in _SPREADS:
        return

    def rewrite(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        options = {"dim": None, "keepdim": False} | {
            k: v for k, v in kwargs.items() if k in ("dim", "keepdim")
        }
        if len(args) > 1 and not isinstance(args[1], bool):
            options["dim"] = args[1]
        biased = (
            kwargs.get("correction", 1) == 0 or kwargs.get("unbiased", True) is False or False in args[1:3]
        )
        return function(args[0], correction=1 if biased else 0, **options)

    words = (
        f"wrong reduction denominator: torch's {call.name} divides by N - 1 unless told otherwise, JAX's by N"
    )
    yield Edit(call.name, rewrite, words)


def _options(call: Call) -> Iterator[Edit]:
    """Every option at another value: flags flipped, reductions exchanged, settings at their default."""
    try:
        defaults = {
            name: parameter.default for name, parameter in inspect.signature(call.function).parameters.items()
        }
    except (ValueError, TypeError):
        return
    for name, present in call.options().items():
        default = defaults.get(name, inspect.Parameter.empty)
        others: list[Any]
        if name == "reduction":
            others = [
                r
                for r in ("batchmean", "mean", "sum")
                if r != present and (r != "batchmean" or call.name == "kl_div")
            ]
        elif isinstance(present, bool):
            others = [not present]
        elif name in _DATA and name != "weight":
            others = []
        else:
            is_default = (
                default is inspect.Parameter.empty
                or default is present
                or (is_setting(present) and default == present)
            )
            others = [] if is_default else [default]
        for other in others:
            trap = "wrong reduction denominator: " if name == "reduction" else ""
            shown = f"{name}={present!r}" if is_setting(present) else f"a {name}"
            words = f"{trap}JAX has {name}={other!r} where torch's {call.name} has {shown}"
            yield Edit(call.name, with_option(name, other), words)


def _swapped_kl(call: Call) -> Iterator[Edit]:
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
    if call.name in ("softmax", "log_softmax", "logsumexp", "mean", "sum", "argmax", "cosine_similarity"):
        dim = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else None)
        if isinstance(dim, int) and not isinstance(dim, bool):
            rank = call.args[0].dim()
            for other in range(rank):
                if other != dim % rank:
                    rewrite = with_argument("dim", 1, other)
                    yield Edit(
                        call.name,
                        rewrite,
                        f"wrong axis: JAX's {call.name} is over axis {other}, torch's over {dim}",
                    )


def _scalar(call: Call) -> float | None:
    scalars = [a for a in call.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
    return float(scalars[0]) if len(scalars) == 1 and len(call.args) == 2 else None


def _constants(call: Call) -> Iterator[Edit]:
    scalar = _scalar(call)
    if (
        call.name not in ("add", "clamp", "clamp_min", "__radd__")
        or scalar is None
        or not 0.0 < scalar <= 1e-2
    ):
        return
    for eps in (*_EPSILONS, 1e-10):
        if eps != scalar:

            def change(f: Any, args: Any, kwargs: Any, eps: float = eps) -> Any:
                return f(*[eps if isinstance(a, float) else a for a in args], **kwargs)

            yield Edit(call.name, only_for(scalar, change), f"epsilon: JAX's is {eps:g}, torch's {scalar:g}")


def _left_out(call: Call) -> Iterator[Edit]:
    scalar = _scalar(call)
    if call.name not in _SCALES or scalar is None or scalar in (0.0, 1.0) or call.name == "__rdiv__":
        return

    def change(function: Any, args: Any, kwargs: Any) -> Any:
        return next(a for a in args if not isinstance(a, (int, float)))

    verb = "multiplication by" if call.name in ("mul", "multiply") else "division by"
    words = f"missing scale: the two agree when torch's {verb} {number(scalar)} is left out"
    yield Edit(call.name, only_for(scalar, change), words)


def _identity(call: Call) -> Iterator[Edit]:
    """A function left out; for `cross_entropy`, the log-softmax in it."""
    if call.name in _TRANSFORMS:

        def unchanged(function: Any, args: Any, kwargs: Any) -> Any:
            return args[0]

        yield Edit(call.name, unchanged, f"missing {call.name}: JAX leaves out torch's {call.name}")
    elif call.name == "cross_entropy":

        def without_log_softmax(function: Any, args: Any, kwargs: Any) -> Any:
            from torch.nn.functional import nll_loss

            return nll_loss(*args, **{k: v for k, v in kwargs.items() if k != "label_smoothing"})

        words = "missing log_softmax: JAX treats the logits as log-probabilities"
        yield Edit(call.name, without_log_softmax, words)


def _scaled_logits(call: Call, scales: list[tuple[float, str]]) -> Iterator[Edit]:
    if call.name == "scaled_dot_product_attention":
        width = call.args[0].shape[-1]
        present = call.kwargs.get("scale") or width**-0.5
        for scale, words in ((1.0, "1"), (width**-0.5, f"1/sqrt({width})"), (1 / width, f"1/{width}")):
            if scale != present:
                said = f"JAX's attention scores are scaled by {words}, torch's by {number(present)}"
                yield Edit(call.name, with_argument("scale", 99, scale), f"missing scale: {said}")
    if call.name not in _ON_LOGITS:
        return
    for scale, words in scales:

        def rewrite(function: Any, args: Any, kwargs: Any, scale: float = scale) -> Any:
            return function(args[0] * scale, *args[1:], **kwargs)

        yield Edit(
            call.name,
            rewrite,
            f"missing scale: the two agree when torch's {call.name} gets its input times {words}",
        )
