"""A model called by its apply function: Linen's, or any other function of parameters and inputs."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax


def forward(
    apply_fn: Callable[..., Any], params: Any, *inputs: Any, key: jax.Array | None = None, **options: Any
) -> Any:
    """What the model makes of the inputs, in training with a key and in evaluation without one.

    Linen's `apply` is called with `{"params": params}`, another function with `params`. Of `deterministic`,
    `train`, `training`, `key` and, with a key, `rngs`, it is given those that it names and that no `partial`
    has set. One that takes any keyword (`**kwargs`) is given `deterministic`.
    """
    function: Any = apply_fn
    bound: set[str] = set()
    while isinstance(function, functools.partial):
        function, bound = function.func, bound | set(function.keywords)
    parameters = inspect.signature(function).parameters
    named = set(parameters)
    module = module_of(function)
    if module is not None:
        params, method = {"params": params}, options.get("method", "__call__")
        parameters = inspect.signature(getattr(type(module), method)).parameters
        named |= set(parameters)
    elif "method" in options:
        raise TypeError("from_hidden needs the apply of a Linen model with methods hidden and head.")
    if any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        # What hands on whatever it is given: Flax's own word for the mode.
        named.add("deterministic")
    trains = key is not None
    offered: dict[str, Any] = {"deterministic": not trains, "train": trains, "training": trains, "key": key}
    if trains:
        offered["rngs"] = {"dropout": key}
    given = {name: value for name, value in offered.items() if name in named - bound}
    return apply_fn(params, *inputs, **given, **options)


def module_of(apply_fn: Callable[..., Any]) -> nn.Module | None:
    """The Linen model whose `apply` this is, also within a `partial`; None if it is another function."""
    while isinstance(apply_fn, functools.partial):
        apply_fn = apply_fn.func
    module = getattr(apply_fn, "__self__", None)
    return module if isinstance(module, nn.Module) else None
