"""Losses that raise on a label out of range, naming it; torch's own error names only the label."""

import functools
import inspect
from collections.abc import Callable

import torch

__all__ = ["make_checked"]


def make_checked(loss: Callable) -> Callable:
    """Make a loss on labels raise a `ValueError` when a label is no class."""
    signature = inspect.signature(loss)
    if "target" not in signature.parameters:
        raise TypeError(f"loss must have an argument target; {loss.__name__} has {signature}.")

    @functools.wraps(loss)
    def checked(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        logits, target = next(iter(bound.arguments.values())), bound.arguments["target"]
        if target is not None and not target.is_floating_point():
            axis = 0 if logits.dim() == 1 else bound.arguments.get("axis", -1)
            num_classes = logits.shape[axis]
            is_wrong = (target < 0) | (target >= num_classes)
            is_wrong &= target != bound.arguments.get("ignore_index", -1)
            where = bound.arguments.get("where")
            if where is not None:
                is_wrong &= where.reshape(where.shape + (1,) * (target.dim() - where.dim()))
            if is_wrong.any():
                place = torch.nonzero(is_wrong)[0].tolist()
                raise ValueError(
                    f"target{place} is {int(target[tuple(place)])}, outside [0, {num_classes}); "
                    f"{int(is_wrong.sum())} of {target.numel()} labels are."
                )
        return loss(*args, **kwargs)

    return checked
