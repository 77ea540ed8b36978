"""Text from Model 5, sampled one token at a time by whole forward passes.

Shapes: B batch, T time, N prompt and new tokens, V vocabulary.
"""

import torch
from torch import Generator, Tensor

from torch_ref.model5.config import Model5Config
from torch_ref.model5.model import Model5


def generate(
    model: Model5,
    config: Model5Config,
    prompt_BT: Tensor,
    *,
    num_tokens: int,
    generator: Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Tensor:
    """Continue each prompt by `num_tokens` tokens.

    Each token is drawn from the logits that the model gives for the last `context_length` tokens before it.
    Dropout is off, whatever mode the model is in, and the mode is left as it was.

    Args:
        model: the model.
        config: its sizes and options.
        prompt_BT: token ids, at least one for each sequence.
        num_tokens: how many to add.
        generator: the only source of randomness.
        temperature: what the logits are divided by; 0 always takes the likeliest token.
        top_k: draw from the `top_k` likeliest tokens only; None draws from all.

    Returns:
        Ids [B, T + num_tokens], of the prompt's dtype: the prompts and what follows them.

    Raises:
        TypeError: the prompt is not of an integer dtype, or an option is not a number.
        ValueError: the prompt is empty, an option too small, or the model's logits are NaN.
        IndexError: the prompt holds an id outside the vocabulary.
    """
    if num_tokens < 1 or not 0 <= temperature < torch.inf or (top_k is not None and top_k < 1):
        raise ValueError(
            "num_tokens and top_k must be at least 1 and temperature in [0, inf); "
            f"got {num_tokens}, {top_k} and {temperature}"
        )
    was_training = model.training
    model.eval()
    ids_BN = prompt_BT
    try:
        with torch.no_grad():
            for _ in range(num_tokens):
                logits_BV = model(ids_BN[:, -config.context_length :])[:, -1]
                token_B = sample_token(logits_BV, generator, temperature, top_k)
                if token_B.min() < 0:
                    raise ValueError("no token can be drawn of the model's logits: they are NaN or all -inf")
                ids_BN = torch.cat([ids_BN, token_B[:, None].to(ids_BN.dtype)], dim=1)
    finally:
        model.train(was_training)
    return ids_BN


def sample_token(
    logits_BV: Tensor, generator: Generator, temperature: float = 1.0, top_k: int | None = None
) -> Tensor:
    """Draw one token for each row of logits.

    A row that holds NaN, or -inf only, gives -1, which is no token; so does a temperature that is negative,
    NaN or infinite. Of infinite scores one is drawn, all as likely.

    Args:
        logits_BV: scores of every token.
        generator: the only source of randomness.
        temperature: what the logits are divided by; 0 takes the likeliest token, the first of equals.
        top_k: draw from the `top_k` likeliest tokens only, and from what ties with the last of them.
    """
    largest_B1 = logits_BV.amax(dim=-1, keepdim=True)
    is_drawable_B1 = largest_B1 > -torch.inf
    # Relative to the largest, so that no temperature, however small, makes it overflow.
    scores_BV = (logits_BV - largest_B1).masked_fill((logits_BV == largest_B1) | ~is_drawable_B1, 0)
    if top_k is not None:
        least_B1 = scores_BV.topk(top_k, dim=-1).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, -torch.inf)
    if not 0 <= temperature < torch.inf:
        return torch.full_like(logits_BV[:, 0], -1, dtype=torch.int64)
    if temperature == 0:
        token_B = scores_BV.argmax(dim=-1)
    else:
        probabilities_BV = (scores_BV / temperature).softmax(dim=-1)
        token_B = torch.multinomial(probabilities_BV, 1, generator=generator)[:, 0]
    return token_B.masked_fill(~is_drawable_B1[:, 0], -1)
