"""Text from Model 5, sampled one token at a time by whole forward passes.

Shapes: B batch, T time, N prompt and new tokens, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

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
    top_p: float | None = None,
    stop_token: int | None = None,
    prompt_lengths: Tensor | None = None,
    on_token: Callable[[Tensor], None] | None = None,
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
        top_p: draw from the fewest likeliest tokens that have this probability together, in (0, 1], after
            `temperature` and `top_k`; None draws from all.
        stop_token: the id after which a sequence is at its end, and holds only that id; None for no such end.
        prompt_lengths: tokens of each prompt, which stand at the right of its row; what is left of them is
            padding. None means that every row is full.
        on_token: called with the next token of every sequence as soon as it is drawn.

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
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1]; got {top_p}")
    if stop_token is not None and not 0 <= stop_token < config.vocab_size:
        raise ValueError(f"stop_token must be in [0, {config.vocab_size - 1}]; got {stop_token}")
    lengths = [prompt_BT.shape[1]] * len(prompt_BT) if prompt_lengths is None else prompt_lengths.tolist()
    if len(lengths) != len(prompt_BT) or not all(1 <= length <= prompt_BT.shape[1] for length in lengths):
        raise ValueError(f"prompt_lengths must be in [1, {prompt_BT.shape[1]}], one a row; got {lengths}")
    texts = [ids_T[-length:] for ids_T, length in zip(prompt_BT, lengths, strict=True)]
    was_training = model.training
    model.eval()
    ids_BN = prompt_BT
    is_done_B = torch.zeros(len(prompt_BT), dtype=torch.bool, device=prompt_BT.device)
    try:
        with torch.no_grad():
            for _ in range(num_tokens):
                logits_BV = _next_logits(model, [text[-config.context_length :] for text in texts])
                token_B = sample_token(logits_BV, generator, temperature, top_k, top_p)
                if token_B.min() < 0:
                    raise ValueError("no token can be drawn of the model's logits: they are NaN or all -inf")
                token_B = token_B.to(ids_BN.dtype)
                if stop_token is not None:
                    token_B = token_B.masked_fill(is_done_B, stop_token)
                    is_done_B |= token_B == stop_token
                ids_BN = torch.cat([ids_BN, token_B[:, None]], dim=1)
                texts = [torch.cat([text, token[None]]) for text, token in zip(texts, token_B, strict=True)]
                if on_token is not None:
                    on_token(token_B)
                if is_done_B.all():
                    break
    finally:
        model.train(was_training)
    end_BM = token_B[:, None].expand(-1, prompt_BT.shape[1] + num_tokens - ids_BN.shape[1])
    return torch.cat([ids_BN, end_BM], dim=1)


def sample_token(
    logits_BV: Tensor,
    generator: Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Draw one token for each row of logits.

    A row that holds NaN, or -inf only, gives -1, which is no token; so does a temperature that is negative,
    NaN or infinite, or a `top_p` outside (0, 1]. Of infinite scores one is drawn, all as likely.

    Args:
        logits_BV: scores of every token.
        generator: the only source of randomness.
        temperature: what the logits are divided by; 0 takes the likeliest token, the first of equals.
        top_k: draw from the `top_k` likeliest tokens only, and from what ties with the last of them.
        top_p: draw from the fewest likeliest tokens that have this probability together, and from what ties
            with the last of them.
    """
    largest_B1 = logits_BV.amax(dim=-1, keepdim=True)
    is_drawable_B1 = largest_B1 > -torch.inf
    # Relative to the largest, so that no temperature, however small, makes it overflow.
    scores_BV = (logits_BV - largest_B1).masked_fill((logits_BV == largest_B1) | ~is_drawable_B1, 0)
    if top_k is not None:
        least_B1 = scores_BV.topk(top_k, dim=-1).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least_B1, -torch.inf)
    if not 0 <= temperature < torch.inf or (top_p is not None and not 0 < top_p <= 1):
        return torch.full_like(logits_BV[:, 0], -1, dtype=torch.int64)
    if temperature == 0:
        token_B = scores_BV.argmax(dim=-1)
    else:
        probabilities_BV = (scores_BV / temperature).softmax(dim=-1)
        if top_p is not None:
            probabilities_BV = _nucleus(probabilities_BV, top_p)
        token_B = torch.multinomial(probabilities_BV, 1, generator=generator)[:, 0]
    return token_B.masked_fill(~is_drawable_B1[:, 0], -1)


def _next_logits(model: Model5, texts: list[Tensor]) -> Tensor:
    """Logits after the last token of each text; shorter ones are padded where attention never looks."""
    logits_BTV = model(pad_sequence(texts, batch_first=True))
    return torch.stack([logits_TV[len(text) - 1] for logits_TV, text in zip(logits_BTV, texts, strict=True)])


def _nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """The probabilities, 0 outside the fewest likeliest tokens that have `top_p` together."""
    descending_BV = probabilities_BV.sort(dim=-1, descending=True).values
    is_kept_BV = (descending_BV.cumsum(dim=-1) - descending_BV < top_p) | (top_p == 1)
    least_B1 = descending_BV.masked_fill(~is_kept_BV, torch.inf).amin(dim=-1, keepdim=True)
    return probabilities_BV.masked_fill(probabilities_BV < least_B1, 0)
