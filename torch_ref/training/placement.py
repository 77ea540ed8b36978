"""Which device holds what: the accelerator if there is one, and the batch where the parameters are."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def place_params(model: nn.Module, *, batch_size: int) -> nn.Module:
    """Copy a model to the device that will train it: the accelerator if there is one, else the CPU.

    The caller's model is left as it is.

    Args:
        model: the module that holds the parameters.
        batch_size: crops in a training batch; one device takes them all.

    Returns:
        The copy, on that device.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return copy.deepcopy(model).to(device or "cpu")


def place_batch(batch: Any, model: nn.Module) -> tuple[Tensor, ...]:
    """Move a batch to where the parameters are; token ids become int64, as PyTorch's losses want targets.

    Args:
        batch: tuple of integer arrays, of NumPy or torch.
        model: the module that holds the parameters.

    Returns:
        The batch, on the parameters' device.

    Raises:
        ValueError: if some parameters are on another device than the rest.
    """
    places = {name: parameter.device for name, parameter in model.named_parameters()}
    first_name, first = next(iter(places.items()))
    for name, device in places.items():
        if device != first:
            raise ValueError(
                f"all parameters must be on the same devices, but {first_name} is on {first} and {name} "
                f"is on {device}: move the whole model with place_params(model, batch_size=...)"
            )
    return tuple(torch.as_tensor(ids).to(first, torch.int64) for ids in batch)
