"""The checks of a request for generated text, free of any framework."""

from numbers import Integral, Real

import numpy as np

from jaxloss.model5.config import Model5Config


def check_generation(
    prompt: np.ndarray, config: Model5Config, num_tokens: int, temperature: float, top_k: int | None
) -> None:
    """Raise TypeError or ValueError, naming the argument, unless `generate` can do what is asked."""
    if prompt.ndim != 2 or 0 in prompt.shape:
        raise ValueError(f"the prompt must be [B, T] with at least one token, got shape {prompt.shape}")
    if prompt.dtype.kind not in "iu":
        raise TypeError(f"the prompt must have an integer dtype, got {prompt.dtype}")
    outside = (prompt < 0) | (prompt >= config.vocab_size)
    if outside.any():
        raise ValueError(
            f"the prompt must hold ids in [0, {config.vocab_size}), the vocabulary, got {prompt[outside][0]}"
        )
    _check_count("num_tokens", num_tokens, None)
    if top_k is not None:
        _check_count("top_k", top_k, config.vocab_size)
    if not isinstance(temperature, Real) or isinstance(temperature, bool):
        raise TypeError(f"temperature must be a number, got {temperature!r}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0 and finite, got {temperature}")


def _check_count(name: str, value: int, most: int | None) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1 or (most is not None and value > most):
        bound = "at least 1" if most is None else f"between 1 and the vocabulary's {most}"
        raise ValueError(f"{name} must be {bound}, got {value}")
