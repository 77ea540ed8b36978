"""Losses that raise on a value out of range, naming it; torch's own error names only the label."""

import functools
import inspect
from collections.abc import Callable

import torch

from torch_ref.losses._masking import ROUNDING

__all__ = ["make_checked"]


def make_checked(loss: Callable) -> Callable:
    """Make a loss on labels raise a `ValueError` when a label, or a length of `ctc_loss`, is out of range."""
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def checked(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments | bound.arguments.get("options", {})
        if "linear_weight" in arguments:
            arguments = {"ignore_index": None, "where": None} | arguments
        for name in arguments:
            if name.endswith("logps"):
                _check_log_probabilities(name, arguments[name], arguments["where"])
        if "targets" in arguments:
            _check_sequences(**arguments)
        elif "group" in arguments:
            _check("group", arguments["group"], arguments, arguments["num_groups"], what="groups")
        elif "ignore_index" in arguments or "multi" in loss.__name__:
            _check_target(arguments, next(iter(bound.arguments.values())), loss.__name__)
        return loss(*args, **kwargs)

    return checked


def _check_log_probabilities(name: str, logps: torch.Tensor, where: torch.Tensor | None) -> None:
    is_wrong = logps > ROUNDING if where is None else (logps > ROUNDING) & where
    if is_wrong.any():
        place = torch.nonzero(is_wrong)[0].tolist()
        raise ValueError(
            f"{name}{place or ''} is {float(logps[tuple(place)])}, above 0, as no log-probability is; "
            f"{int(is_wrong.sum())} of {logps.numel()} numbers are."
        )


def _check_target(arguments: dict, input: torch.Tensor, loss_name: str) -> None:
    target = arguments.get("target")
    if target is None or target.is_floating_point():
        return
    if "linear_weight" in arguments:
        num_classes = arguments["linear_weight"].shape[0]
    else:
        num_classes = input.shape[-1 if input.dim() == 1 else arguments.get("axis", -1)]
    if "final_token" in loss_name:
        where = arguments["where"]
        arguments = arguments | {"where": None if where is None else where[..., -1]}
        target = target[..., -1]
    # -1 ends a row of several labels.
    low = -1 if loss_name == "multilabel_margin_loss" else 0
    _check("target", target, arguments, num_classes, low)


def _check_sequences(log_probs, targets, input_lengths, target_lengths, where=None, **_) -> None:
    frames, lengths, masked = (
        torch.as_tensor(input_lengths),
        torch.as_tensor(target_lengths),
        {"where": where},
    )
    if log_probs.dim() == 3 and targets.dim() == 1:
        _check("cumsum(target_lengths)", lengths.cumsum(0), masked, len(targets) + 1, what="lengths")
        targets = torch.nn.utils.rnn.pad_sequence(targets.split(lengths.tolist()), batch_first=True)
    _check("input_lengths", frames, masked, log_probs.shape[0] + 1, what="lengths")
    _check("target_lengths", lengths, masked, targets.shape[-1] + 1, what="lengths")
    is_label = torch.arange(targets.shape[-1]) < lengths[..., None]
    _check("targets", torch.where(is_label, targets, 0), masked, log_probs.shape[-1])


def _check(name: str, labels: torch.Tensor, arguments: dict, high: int, low: int = 0, what="labels") -> None:
    is_wrong = (labels < low) | (labels >= high)
    if "ignore_index" in arguments:
        is_wrong &= labels != (-100 if arguments["ignore_index"] is None else arguments["ignore_index"])
    if arguments["where"] is not None:
        where = arguments["where"]
        is_wrong &= where.reshape(where.shape + (1,) * (labels.dim() - where.dim()))
    if is_wrong.any():
        place = torch.nonzero(is_wrong)[0].tolist()
        raise ValueError(
            f"{name}{place or ''} is {int(labels[tuple(place)])}, outside [{low}, {high}); "
            f"{int(is_wrong.sum())} of {labels.numel()} {what} are."
        )
