"""The checks of a request for generated text, free of any framework."""

import numpy as np

from jaxloss._checks import check_integer, check_number
from jaxloss.model5.config import Model5Config


def check_generation(
    prompt: np.ndarray, config: Model5Config, num_tokens: int, temperature: float, top_k: int | None
) -> None:
    """Raise TypeError or ValueError, naming the argument, unless `generate` can do what is asked."""
    if prompt.ndim != 2 or 0 in prompt.shape:
        raise ValueError(f"the prompt must be [B, T] with at least one token; got shape {prompt.shape}")
    if prompt.dtype.kind not in "iu":
        raise TypeError(f"the prompt must have an integer dtype; got {prompt.dtype}")
    outside = (prompt < 0) | (prompt >= config.vocab_size)
    if outside.any():
        raise ValueError(
            f"the prompt must hold ids in [0, {config.vocab_size}), the vocabulary; got {prompt[outside][0]}"
        )
    check_integer("num_tokens", num_tokens, low=1)
    if top_k is not None:
        check_integer("top_k", top_k, low=1, high=config.vocab_size)
    check_number("temperature", temperature, low=0, open_high=True)
