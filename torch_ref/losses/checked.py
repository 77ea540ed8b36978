"""Losses that raise on a label or length out of range, naming it; torch's own error names only the label."""

import functools
import inspect
from collections.abc import Callable

import torch

__all__ = ["make_checked"]


def make_checked(loss: Callable) -> Callable:
    """Make a loss on labels raise a `ValueError` when a label, or a length of `ctc_loss`, is out of range."""
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def checked(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments | bound.arguments.get("options", {})
        if "targets" in arguments:
            _check_sequences(**arguments)
        elif "group" in arguments:
            _check_labels("group", arguments["group"], arguments, arguments["num_groups"], what="groups")
        elif "ignore_index" in arguments or "multi" in loss.__name__:
            _check_target(arguments, next(iter(bound.arguments.values())), loss.__name__)
        return loss(*args, **kwargs)

    return checked


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
    lowest = -1 if loss_name == "multilabel_margin_loss" else 0
    _check_labels("target", target, arguments, num_classes, lowest)


def _check_labels(name: str, labels: torch.Tensor, arguments: dict, high: int, low: int = 0, what="labels"):
    is_wrong = (labels < low) | (labels >= high)
    if "ignore_index" in arguments:
        is_wrong &= labels != (-100 if arguments["ignore_index"] is None else arguments["ignore_index"])
    _check(name, labels, is_wrong, arguments["where"], f"[{low}, {high})", what)


def _check_sequences(log_probs, targets, input_lengths, target_lengths, where=None, **_) -> None:
    frames, lengths = torch.as_tensor(input_lengths), torch.as_tensor(target_lengths)
    if log_probs.dim() == 3 and targets.dim() == 1:
        is_wrong = lengths.cumsum(0) > len(targets)
        interval = f"what is left of {len(targets)} targets"
        _check("target_lengths", lengths, is_wrong, where, interval, "lengths")
        targets = torch.nn.utils.rnn.pad_sequence(targets.split(lengths.tolist()), batch_first=True)
    for name, given, most in (
        ("input_lengths", frames, log_probs.shape[0]),
        ("target_lengths", lengths, targets.shape[-1]),
    ):
        _check(name, given, (given < 0) | (given > most), where, f"[0, {most}]", "lengths")
    is_label = torch.arange(targets.shape[-1]) < lengths[..., None]
    is_wrong = is_label & ((targets < 0) | (targets >= log_probs.shape[-1]))
    _check("targets", targets, is_wrong, where, f"[0, {log_probs.shape[-1]})", "labels")


def _check(name: str, values: torch.Tensor, is_wrong: torch.Tensor, where, interval: str, what: str) -> None:
    if where is not None:
        is_wrong = is_wrong & where.reshape(where.shape + (1,) * (is_wrong.dim() - where.dim()))
    if is_wrong.any():
        place = torch.nonzero(is_wrong)[0].tolist()
        raise ValueError(
            f"{name}{place or ''} is {int(values[tuple(place)])}, outside {interval}; "
            f"{int(is_wrong.sum())} of {values.numel()} {what} are."
        )
