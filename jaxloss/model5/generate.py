"""Text from Model 5: jitted sampling with a cache of keys and values.

Shapes: B batch, P prompt, L context length, S stored tokens, V vocabulary, H heads, K head width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxloss._checks import check_integer, check_number
from jaxloss.model5.config import Model5Config
from jaxloss.model5.model import Model5, Params


def generate(
    params: Params,
    config: Model5Config,
    prompt_BT: Int[Array, "B T"],
    *,
    num_tokens: int,
    key: jax.Array,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Int[Array, "B N"]:
    """Continue each prompt by `num_tokens` tokens.

    Token i is drawn with `fold_in(key, i)` from the logits that the model gives for the last
    `context_length` tokens before it: as long as all of them fit, their keys and values are cached; beyond
    that the window slides, every position in it changes, and each token costs a pass over the window.

    Compiled once for each batch size and `top_k`, whatever the lengths of prompt and continuation, while
    they fit the context together; once more for each multiple of the context that they go beyond it.

    Args:
        params: parameters as from `init_params`.
        config: the model's sizes and options.
        prompt_BT: token ids, at least one for each sequence.
        num_tokens: how many to add.
        key: the only source of randomness.
        temperature: what the logits are divided by; 0 always takes the likeliest token.
        top_k: draw from the `top_k` likeliest tokens only; None draws from all.

    Returns:
        int32 ids [B, T + num_tokens]: the prompts and what follows them.

    Raises:
        TypeError: the prompt is not of an integer dtype, or a count is not an integer.
        ValueError: the prompt is empty or holds an id outside the vocabulary, an option is out of range, or
            the logits become NaN. Within another `jit`, which cannot raise, the ids are -1 from there on.

    >>> from jaxloss.model5 import init_params
    >>> config = Model5Config(vocab_size=11, context_length=4, embed_dim=8, num_heads=2, num_blocks=1)
    >>> params = init_params(config, jax.random.key(0))
    >>> generate(params, config, jnp.array([[1, 2, 3]]), num_tokens=5, key=jax.random.key(1)).shape
    (1, 8)
    """
    prompt = np.asarray(prompt_BT)
    _check_request(prompt, config, num_tokens, temperature, top_k)
    window_BP = prompt[:, -config.context_length :]
    stop = window_BP.shape[1] + num_tokens
    stored_BS = np.zeros((len(prompt), -(-stop // config.context_length) * config.context_length), np.int32)
    stored_BS[:, : window_BP.shape[1]] = window_BP
    stored_BS = _continue(
        params, stored_BS, window_BP.shape[1], stop, key, jnp.float32(temperature), config=config, top_k=top_k
    )
    new_BN = stored_BS[:, window_BP.shape[1] : stop]
    if not isinstance(new_BN, jax.core.Tracer) and (np.asarray(new_BN) < 0).any():
        row, i = np.argwhere(np.asarray(new_BN) < 0)[0]
        raise ValueError(
            f"params give logits of which no token can be drawn, NaN or all -inf, for token {i} of sequence "
            f"{row}: look for NaN, infinity or huge numbers in params"
        )
    return jnp.concatenate([prompt.astype(np.int32), new_BN], axis=1)


def sample_token(
    logits_BV: Float[Array, "B V"],
    key: jax.Array,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
) -> Int[Array, " B"]:
    """Draw one token for each row of logits.

    A row that holds NaN, or -inf only, gives -1, which is no token: it cannot raise under `jit`, and it must
    not pass; so does a temperature that is negative, NaN or infinite. Of infinite scores one is drawn, all as
    likely.

    Args:
        logits_BV: scores of every token.
        key: the only source of randomness.
        temperature: what the logits are divided by; 0 takes the likeliest token, the first of equals.
        top_k: draw from the `top_k` likeliest tokens only, and from what ties with the last of them.

    >>> sample_token(jnp.array([[0.0, 3.0, 1.0]]), jax.random.key(0), temperature=0.0)
    Array([1], dtype=int32)
    """
    logits_BV = logits_BV.astype(jnp.promote_types(logits_BV.dtype, jnp.float32))
    largest_B1 = logits_BV.max(axis=-1, keepdims=True)
    # Relative to the largest, so that no temperature, however small, makes it overflow.
    scores_BV = jnp.where(logits_BV == largest_B1, 0, logits_BV - largest_B1)
    if top_k is not None:
        least_B1 = jax.lax.top_k(scores_BV, top_k)[0][:, -1:]
        scores_BV = jnp.where(scores_BV < least_B1, -jnp.inf, scores_BV)
    is_greedy = jnp.asarray(temperature) == 0
    drawn_B = jax.random.categorical(key, scores_BV / jnp.where(is_greedy, 1, temperature))
    token_B = jnp.where(is_greedy, scores_BV.argmax(axis=-1), drawn_B)
    # The largest of a row that holds NaN is NaN.
    is_drawable_B = (
        (largest_B1[:, 0] > -jnp.inf) & jnp.isfinite(temperature) & (jnp.asarray(temperature) >= 0)
    )
    return jnp.where(is_drawable_B, token_B, -1).astype(jnp.int32)


def _check_request(
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


@partial(jax.jit, static_argnames=("config", "top_k"))
def _continue(
    params: Params,
    stored_BS: Int[Array, "B S"],
    start: Int[Array, ""],
    stop: Int[Array, ""],
    key: jax.Array,
    temperature: Float[Array, ""],
    *,
    config: Model5Config,
    top_k: int | None,
) -> Int[Array, "B S"]:
    """Fill positions `start` to `stop` of the stored tokens."""
    apply: Callable[..., Any] = partial(Model5(config).apply, {"params": params})
    context = config.context_length
    cache_shape = (stored_BS.shape[0], context, config.num_heads, config.head_dim)
    dtype = jax.tree.leaves(params)[0].dtype
    empty = tuple((jnp.zeros(cache_shape, dtype),) * 2 for _ in range(config.num_blocks))

    def with_sample(stored_BS, position, hidden_BD):
        logits_BV = apply(hidden_BD, method="logits")
        token_B = sample_token(logits_BV, jax.random.fold_in(key, position - start), temperature, top_k)
        return jax.lax.dynamic_update_slice_in_dim(stored_BS, token_B[:, None], position, axis=1)

    def cached_step(position, state):
        stored_BS, cache = state
        last_B1 = jax.lax.dynamic_slice_in_dim(stored_BS, position - 1, 1, axis=1)
        hidden_B1D, cache = apply(last_B1, cache, position - 1, method="extend")
        return with_sample(stored_BS, position, hidden_B1D[:, 0]), cache

    def sliding_step(position, stored_BS):
        window_BL = jax.lax.dynamic_slice_in_dim(stored_BS, position - context, context, axis=1)
        hidden_BLD = apply(window_BL, method="hidden")
        return with_sample(stored_BS, position, hidden_BLD[:, -1])

    # What the cache holds beyond the prompt is of padding: out of sight, and written over in time.
    _, cache = apply(stored_BS[:, :context], empty, 0, method="extend")
    end_of_cache = jnp.minimum(stop, context + 1)
    stored_BS, _ = jax.lax.fori_loop(start, end_of_cache, cached_step, (stored_BS, cache))
    if stored_BS.shape[1] > context:
        stored_BS = jax.lax.fori_loop(jnp.maximum(start, end_of_cache), stop, sliding_step, stored_BS)
    return stored_BS
