"""Carry dropout masks from JAX to torch, so that both drop the same elements.

JAX draws them; a torch module takes them where it has submodules with a `mask` attribute, as torch_ref's
Dropout has.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from jaxloss.interop import is_tensor, to_torch
from jaxloss.testing._result import dotted


def draw_masks(
    apply_fn: Callable[..., Any], variables: Mapping[str, Any], *inputs: Any, key: jax.Array
) -> Any:
    """Run a Flax model in training and take out the dropout masks that its key drew.

    Args:
        apply_fn: `model.apply` of a model that uses `jaxloss.model5.Dropout`.
        variables: its variables, such as `{"params": params}`.
        *inputs: that the model is called with; the masks depend on their shapes alone.
        key: of the `dropout` stream.

    Returns:
        The `dropout_masks` collection, a tree of boolean arrays, True where an element is kept. Given to
        `apply` among the variables it makes any run drop the same elements.

    Raises:
        ValueError: the model has no such dropout, or its rate is 0.
    """

    @jax.jit
    def run(variables: Any, key: jax.Array) -> Any:
        options = {"deterministic": False, "rngs": {"dropout": key}, "mutable": ["dropout_masks"]}
        # Only the masks leave the compiled function, so that most of the model is never computed.
        return apply_fn(variables, *inputs, **options)[1].get("dropout_masks", {})

    masks = run(variables, key)
    if not jax.tree.leaves(masks):
        raise ValueError(
            "the model wrote no dropout_masks: it has no jaxloss.model5.Dropout, or its rate is 0"
        )
    return masks


@contextlib.contextmanager
def inject_masks(module: Any, masks: Any) -> Iterator[Any]:
    """Make a torch module drop what JAX dropped, as long as the context lasts.

    Args:
        module: a torch module with submodules that have a `mask` attribute, in training mode.
        masks: from `draw_masks`, or the same tree with tensors in it.

    Raises:
        ValueError: a mask has no place, a place no mask, or the module is in evaluation mode, where it would
            not drop anything.
    """
    given = {
        dotted(jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".mask")): mask
        for path, mask in jax.tree_util.tree_flatten_with_path(masks)[0]
    }
    places = {dotted(name): m for name, m in module.named_modules() if hasattr(m, "mask")}
    missing, extra = sorted(places.keys() - given.keys()), sorted(given.keys() - places.keys())
    if missing or extra:
        raise ValueError(
            f"masks must fit the module's dropouts; without a mask: {', '.join(missing) or 'none'}; masks "
            f"without a place: {', '.join(extra) or 'none'}"
        )
    resting = [name for name, place in places.items() if not place.training]
    if resting:
        raise ValueError(
            f"the module is in evaluation mode and would not drop anything in {', '.join(resting)}"
        )
    device = next((parameter.device for parameter in module.parameters()), "cpu")
    with contextlib.ExitStack() as stack:
        for name, place in places.items():
            stack.callback(setattr, place, "mask", place.mask)
            place.mask = (given[name] if is_tensor(given[name]) else to_torch(given[name])).to(device)
        yield module
