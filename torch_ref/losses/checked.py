"""Losses that raise on a label or length out of range, naming it; torch's own error names only the label."""

import functools
import inspect
from collections.abc import Callable

import torch

__all__ = ["make_checked"]

# Their targets are signs or numbers; there is no label to be out of range.
_WITHOUT_LABELS = (
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
)


def make_checked(loss: Callable) -> Callable:
    """Make a loss on labels raise a `ValueError` when a label, or a length of `ctc_loss`, is out of range."""
    signature = inspect.signature(loss)
    parameters, name = signature.parameters, getattr(loss, "__name__", "")
    if not {"target", "targets", "group"} & set(parameters):
        raise TypeError(f"loss must have an argument target, targets or group; {name} has {signature}.")

    @functools.wraps(loss)
    def checked(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        arguments |= arguments.pop("options", {})
        if "targets" in arguments:
            _check_sequences(arguments)
        elif "group" in arguments:
            group, num_groups = arguments["group"], arguments["num_groups"]
            is_wrong = ((group < 0) | (group >= num_groups)) & (group != arguments["ignore_index"])
            _check("group", group, _where(is_wrong, arguments), f"[0, {num_groups})", "groups")
        elif arguments["target"] is not None and name not in _WITHOUT_LABELS:
            _check_target(arguments, next(iter(bound.arguments.values())), name)
        return loss(*args, **kwargs)

    return checked


def _check_target(arguments: dict, logits: torch.Tensor, name: str) -> None:
    target, ignore_index = arguments["target"], arguments.get("ignore_index")
    if target.is_floating_point():
        return
    if "linear_weight" in arguments:
        num_classes = arguments["linear_weight"].shape[0]
        ignore_index = -100 if ignore_index is None else ignore_index
    else:
        axis = 0 if logits.dim() == 1 else arguments.get("axis", -1)
        num_classes = logits.shape[axis] if logits.dim() else 1
    lowest = -1 if name == "multilabel_margin_loss" else 0
    is_wrong = (target < lowest) | (target >= num_classes)
    if ignore_index is not None:
        is_wrong &= target != ignore_index
    if name in ("final_token_loss", "linear_final_token_loss"):
        is_wrong[..., :-1] = False
    _check("target", target, _where(is_wrong, arguments), f"[{lowest}, {num_classes})", "labels")


def _check_sequences(arguments: dict) -> None:
    log_probs, targets = arguments["log_probs"], arguments["targets"]
    num_frames, num_classes = log_probs.shape[0], log_probs.shape[-1]
    in_one_row = targets.dim() == 1 and log_probs.dim() == 3
    most = targets.numel() if in_one_row else targets.shape[-1]
    for name, longest in (("input_lengths", num_frames), ("target_lengths", most)):
        lengths = torch.as_tensor(arguments[name])
        is_wrong = _where((lengths < 0) | (lengths > longest), arguments)
        _check(name, lengths, is_wrong, f"[0, {longest}]", "lengths")
    is_wrong = (targets < 0) | (targets >= num_classes)
    if in_one_row:
        ends = lengths.cumsum(0)
        too_long = _where(ends > most, arguments)
        _check("target_lengths", lengths, too_long, f"what is left of {most} targets", "lengths")
        owners = torch.bucketize(torch.arange(most), ends, right=True)
        is_wrong &= owners < len(ends)
        if arguments.get("where") is not None:
            is_wrong &= arguments["where"][owners.clamp(max=len(ends) - 1)]
    else:
        is_wrong &= torch.arange(most) < lengths.reshape((*targets.shape[:-1], 1))
        is_wrong = _where(is_wrong, arguments)
    _check("targets", targets, is_wrong, f"[0, {num_classes})", "labels")


def _where(is_wrong: torch.Tensor, arguments: dict) -> torch.Tensor:
    """Of those that take part; the mask may lack the last axes."""
    where = arguments.get("where")
    if where is None:
        return is_wrong
    return is_wrong & where.reshape(where.shape + (1,) * (is_wrong.dim() - where.dim()))


def _check(name: str, values: torch.Tensor, is_wrong: torch.Tensor, interval: str, what: str) -> None:
    if is_wrong.any():
        place = torch.nonzero(is_wrong)[0].tolist()
        raise ValueError(
            f"{name}{place or ''} is {int(values[tuple(place)])}, outside {interval}; "
            f"{int(is_wrong.sum())} of {values.numel()} {what} are."
        )
