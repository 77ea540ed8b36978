"""Penalties on a language model's logits, as their papers write them, in torch's own operations."""

import torch
from torch import Tensor

from torch_ref.losses._masking import kept, reduce_rows

__all__ = ["entropy_loss", "previous_tokens", "token_set_loss", "unlikelihood_loss", "z_loss"]


def z_loss(
    input: Tensor,
    *,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """The square of `torch.logsumexp`."""
    rows = input.movedim(axis, -1)
    keep = torch.ones(rows.shape[:-1], dtype=torch.bool) if where is None else where
    return reduce_rows(torch.logsumexp(rows[keep], -1) ** 2, keep, reduction, *kept(keep, sample_weight))


def entropy_loss(
    input: Tensor,
    *,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """The sum of `p log(p)`."""
    rows = input.movedim(axis, -1)
    keep = torch.ones(rows.shape[:-1], dtype=torch.bool) if where is None else where
    log_probs = torch.log_softmax(rows[keep], -1)
    return reduce_rows((log_probs.exp() * log_probs).sum(-1), keep, reduction, *kept(keep, sample_weight))


def unlikelihood_loss(
    input: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """`-log(1 - p)` of each token to avoid; `1 - p` as the sum of the other tokens' probabilities."""
    keep = torch.ones(input.shape[:-1], dtype=torch.bool) if where is None else where
    logits, avoid = input[keep], target[keep]
    terms = []
    for k in range(avoid.shape[-1]):
        is_given = avoid[:, k] != ignore_index
        label = torch.where(is_given, avoid[:, k], 0)
        is_label = torch.nn.functional.one_hot(label, logits.shape[-1]).bool()
        others = torch.logsumexp(logits.masked_fill(is_label, -torch.inf), -1)
        terms.append(torch.where(is_given, torch.logsumexp(logits, -1) - others, 0.0))
    loss = torch.stack(terms, -1).sum(-1) if terms else torch.zeros(logits.shape[:-1], dtype=logits.dtype)
    return reduce_rows(loss, keep, reduction, *kept(keep, sample_weight))


def previous_tokens(target: Tensor, *, ignore_index: int = -100) -> Tensor:
    """The set of earlier tokens for each position, by Python's own sets."""
    flat = target.reshape(-1, target.shape[-1])
    avoid = torch.full((*flat.shape, flat.shape[-1]), ignore_index, dtype=target.dtype)
    for row, tokens in enumerate(flat.tolist()):
        for t, own in enumerate(tokens):
            seen = {own, ignore_index}
            for s, token in enumerate(tokens[:t]):
                if token not in seen:
                    avoid[row, t, s] = token
                    seen.add(token)
    return avoid.reshape(*target.shape, target.shape[-1])


def token_set_loss(
    input: Tensor,
    token_set: Tensor,
    *,
    mass: float = 1.0,
    reduction: str = "mean",
    where: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """The binary Kullback-Leibler divergence of the wanted mass from the softmax's mass on the set."""
    keep = torch.ones(input.shape[:-1], dtype=torch.bool) if where is None else where
    logits, members = input[keep], token_set.broadcast_to(input.shape)[keep]
    whole = torch.logsumexp(logits, -1)
    loss = torch.zeros_like(whole)
    for share, chosen in ((mass, members), (1 - mass, ~members)):
        if share > 0.0:
            log_mass = torch.logsumexp(logits.masked_fill(~chosen, -torch.inf), -1) - whole
            loss = loss + share * (torch.log(torch.tensor(share, dtype=whole.dtype)) - log_mass)
    return reduce_rows(loss, keep, reduction, *kept(keep, sample_weight))
