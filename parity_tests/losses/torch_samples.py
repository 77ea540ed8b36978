"""Torch's own test inputs: every OpInfo sample and ModuleInfo input of its losses, values and gradients.

Samples are run without `jit`: there are a thousand of them on a handful of shapes, so that the primitives'
programs are shared where a program for each sample would take minutes to compile. A process of its own,
since XLA has to be told at its start to compile quickly.
"""

import functools
import inspect
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from jaxloss import losses
from jaxloss._reduction import compute_dtype
from parity_tests.compare import error_in_eps
from parity_tests.tolerances import BFLOAT16_ULP, CTC_GRADIENT_EPS_OF_MAX, GRADIENT_EPS_OF_MAX

# Of the samples of each dtype, one in so many is run: which branch a sample takes depends on no dtype.
ONE_IN = {"float64": 1, "float32": 7, "bfloat16": 7}
# linear_cross_entropy lives in `jaxloss.fused` and is held against its own samples there.
OPERATORS = {
    op.name.removeprefix("nn.functional."): op
    for op in op_db
    if op.name.startswith("nn.functional.") and op.name.removeprefix("nn.functional.") in losses.__all__
}
FUNCTIONS = {
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "CTCLoss": "ctc_loss",
    "CosineEmbeddingLoss": "cosine_embedding_loss",
    "CrossEntropyLoss": "cross_entropy",
    "GaussianNLLLoss": "gaussian_nll_loss",
    "HingeEmbeddingLoss": "hinge_embedding_loss",
    "HuberLoss": "huber_loss",
    "KLDivLoss": "kl_div",
    "L1Loss": "l1_loss",
    "MSELoss": "mse_loss",
    "MarginRankingLoss": "margin_ranking_loss",
    "MultiLabelMarginLoss": "multilabel_margin_loss",
    "MultiLabelSoftMarginLoss": "multilabel_soft_margin_loss",
    "MultiMarginLoss": "multi_margin_loss",
    "NLLLoss": "nll_loss",
    "PoissonNLLLoss": "poisson_nll_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "SoftMarginLoss": "soft_margin_loss",
}
MODULES = {
    module.name.removeprefix("nn."): module
    for module in module_db
    if module.name.removeprefix("nn.") in FUNCTIONS
}


# In float64, where torch is the truth it is compared with, torch's own error: test_ctc measures it.
ALLOWED = {("ctc_loss", "float64"): CTC_GRADIENT_EPS_OF_MAX}


class Call(NamedTuple):
    """The arguments of a function of torch.nn.functional, by name."""

    name: str
    arguments: dict[str, Any]


def bind(name: str, args, kwargs) -> Call:
    """The call with arguments by name, without the retired ones and without the defaults."""
    arguments = inspect.signature(getattr(F, name)).bind(*args, **kwargs).arguments
    return Call(name, {k: v for k, v in arguments.items() if k not in ("size_average", "reduce")})


def operator_calls(name: str, dtype) -> Iterator[Call]:
    operator = OPERATORS[name]
    for sample in operator.sample_inputs("cpu", dtype, requires_grad=True):
        yield bind(name, (sample.input, *sample.args), sample.kwargs)


def module_call(module, constructor, forward) -> Call:
    """What a loss module computes, as a call of the function; its constructor's arguments are the options."""
    name = FUNCTIONS[module.name.removeprefix("nn.")]
    options = inspect.signature(module.module_cls).bind(*constructor.args, **constructor.kwargs).arguments
    options = {k: v for k, v in options.items() if k in inspect.signature(getattr(F, name)).parameters}
    call = bind(name, forward.args, forward.kwargs)
    return Call(name, call.arguments | {k: v for k, v in options.items() if v is not None})


def module_calls(name: str, dtype) -> Iterator[Call]:
    module = MODULES[name]
    for inputs in module.module_inputs_func(module, "cpu", dtype, True, training=True):
        yield module_call(module, inputs.constructor_input, inputs.forward_input)


def to_jax(value, dtype: str):
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point():
            return jnp.asarray(value.numpy())
        # Numpy converts it, which compiles nothing.
        return jnp.asarray(value.detach().double().numpy(), dtype)
    return value


def our_loss(name: str) -> Callable:
    loss = getattr(losses, name)
    if "axis" in inspect.signature(loss).parameters:
        loss = functools.partial(loss, axis=1)
    if name == "ctc_loss":
        # Torch's gradient is meant for what lies below a log-softmax; only there do the two agree.
        return lambda log_probs, **rest: loss(jax.nn.log_softmax(at_least_float32(log_probs)), **rest)
    if name in ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "gaussian_nll_loss"):
        # In at least float32, or the gradient of what is broadcast would be summed in 16 bits.
        return lambda input, target, **rest: loss(
            *jnp.broadcast_arrays(at_least_float32(input), at_least_float32(target)), **rest
        )
    return loss


def at_least_float32(x):
    return x.astype(compute_dtype(x))


def their_loss(name: str) -> Callable:
    loss = getattr(F, name)
    if name == "ctc_loss":
        return lambda log_probs, **rest: loss(log_probs.log_softmax(-1), **rest)
    return loss


def errors(call: Call, dtype: str) -> list[float]:
    """The errors of value and gradients, in eps of max, against torch in float64 on the same numbers.

    Torch in float32 would be no truth: where a result is a small difference of large numbers, as for a
    confident prediction, its error is an eps of those.
    """
    arguments = {}
    for key, value in call.arguments.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            needs_gradient = value.requires_grad
            value = value.detach().to(getattr(torch, dtype)).double().requires_grad_(needs_gradient)
        arguments[key] = value
    wrt = [k for k, v in arguments.items() if isinstance(v, torch.Tensor) and v.requires_grad]
    expected = their_loss(call.name)(**arguments)
    random = np.random.default_rng(0).standard_normal(tuple(expected.shape)).astype("float32")
    cotangent = torch.tensor(random, dtype=torch.float64)
    expected_gradients = torch.autograd.grad(
        expected, [arguments[k] for k in wrt], cotangent, materialize_grads=True
    )
    ours = {key: to_jax(value, dtype) for key, value in arguments.items()}
    if "distance_function" in ours:
        ours["distance_function"] = pairwise_distance

    def of_wrt(*chosen):
        return our_loss(call.name)(**(ours | dict(zip(wrt, chosen, strict=True))))

    value, pullback = jax.vjp(of_wrt, *(ours[k] for k in wrt))
    gradients = pullback(jnp.asarray(cotangent.numpy(), value.dtype))
    found = [error_in_eps(value, expected, dtype)]
    for key, gradient, wanted in zip(wrt, gradients, expected_gradients, strict=True):
        found.append(error_in_eps(gradient, wanted, dtype, _scale(call.name, key, wanted, cotangent)))
    return found


def _scale(name: str, wrt: str, expected: torch.Tensor, cotangent: torch.Tensor) -> float | None:
    """What an error is relative to: the largest entry of what is expected, but for one gradient.

    That of `kl_div` by its target is `log p - x + 1`, whose 1 may cancel: of a result of 4e-4, torch's
    float64 is 224 eps off and ours 956, which is 0.1 and 0.4 eps of the 1.
    """
    if (name, wrt) != ("kl_div", "target"):
        return None
    one = cotangent.flatten().abs() / max(expected.numel(), 1)  # at least, whatever the reduction
    sizes = torch.cat([expected.flatten().abs(), one])
    return float(sizes[sizes.isfinite()].max()) if sizes.numel() else None


def pairwise_distance(x, y):
    """`torch.nn.PairwiseDistance`, the distance that torch's samples use."""
    return jnp.linalg.norm(x - y + 1e-6, axis=-1)


def run(name: str, calls: Iterator[Call], dtype: str) -> int:
    """The number of samples that differ, each of which is printed."""
    torch.manual_seed(0)  # the samples are drawn as they are asked for
    num_wrong, count = 0, 0
    for call in itertools.islice(calls, 0, None, ONE_IN[dtype]):
        count += 1
        found = errors(call, dtype)
        allowed = (
            BFLOAT16_ULP if dtype == "bfloat16" else ALLOWED.get((call.name, dtype), GRADIENT_EPS_OF_MAX)
        )
        if max(found) > allowed:
            num_wrong += 1
            shapes = {
                k: tuple(v.shape) if isinstance(v, torch.Tensor) else v for k, v in call.arguments.items()
            }
            print(f"{call.name}({shapes}): errors of {[f'{e:.3g}' for e in found]} eps of max")
    print(f"{name}: {count - num_wrong} of {count} agree", flush=True)
    return num_wrong


def main(dtypes: list[str]) -> int:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    torch.set_num_threads(1)
    warnings.simplefilter(
        "ignore"
    )  # Torch warns about its own samples: broadcasting targets and kl_div's mean.
    return sum(
        run(name, calls(name, torch.float32 if dtype == "float32" else torch.float64), dtype)
        for dtype in dtypes
        for names, calls in ((OPERATORS, operator_calls), (MODULES, module_calls))
        for name in names
    )


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
