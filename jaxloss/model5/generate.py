"""Text from Model 5: jitted sampling with a cache of keys and values.

Shapes: B batch, P prompt, T time, L context length, S stored tokens, N new tokens, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxloss._checks import check_integer, check_number
from jaxloss.model5.blocks import KeyValue
from jaxloss.model5.config import Model5Config
from jaxloss.model5.model import Model5, Params


class _Text(NamedTuple):
    """Texts that are being written."""

    stored_BS: Int[Array, "B S"]
    cache: tuple[KeyValue, ...]
    num_written: Int[Array, ""]
    token_B: Int[Array, " B"]
    is_done_B: Bool[Array, " B"]


def generate(
    params: Params,
    config: Model5Config,
    prompt_BT: Int[Array, "B T"],
    *,
    num_tokens: int,
    key: jax.Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_token: int | None = None,
    prompt_lengths: Int[Array, " B"] | None = None,
    on_token: Callable[[Int[np.ndarray, " B"]], None] | None = None,
) -> Int[Array, "B N"]:
    """Continue each prompt by `num_tokens` tokens.

    Token i is drawn with `fold_in(key, i)` from the logits that the model gives for the last
    `context_length` tokens before it, so of a longer prompt the model sees the end: as long as all of them
    fit, their keys and values are cached; beyond that the window slides, every position in it changes, and
    each token costs a pass over the window.

    Prompts of different lengths are continued as each would be alone: the logits are the same, and so are
    the tokens at temperature 0. At others, a row's draws also depend on its place in the batch.

    Compiled once for each batch size and `top_k`, and with or without `top_p`, whatever the lengths of
    prompts and continuation, while they fit the context together; once more for each multiple of the context
    that they go beyond it.

    Args:
        params: parameters as from `init_params`.
        config: the model's sizes and options.
        prompt_BT: token ids, at least one for each sequence.
        num_tokens: how many to add.
        key: the only source of randomness.
        temperature: what the logits are divided by; 0 always takes the likeliest token.
        top_k: draw from the `top_k` likeliest tokens only; None draws from all.
        top_p: draw from the fewest likeliest tokens that have this probability together, in (0, 1], after
            `temperature` and `top_k`; None draws from all.
        stop_token: the id after which a sequence is at its end, and holds only that id; None for no such end.
        prompt_lengths: tokens of each prompt, which stand at the right of its row; what is left of them is
            padding, and may be any number. None means that every row is full.
        on_token: called with the next token of every sequence as soon as it is drawn, by the same compiled
            program; not within another `jit`.

    Returns:
        int32 ids [B, T + num_tokens]: the prompts and what follows them.

    Raises:
        TypeError: the prompt is not of an integer dtype, or a count is not an integer.
        ValueError: the prompt is empty or holds an id outside the vocabulary, an option is out of range, or
            the logits become NaN. Within another `jit`, where the prompt must be NumPy's, that cannot be
            raised: the ids are -1 from there on.

    >>> from jaxloss.model5 import init_params
    >>> config = Model5Config(vocab_size=11, context_length=4, embed_dim=8, num_heads=2, num_blocks=1)
    >>> params = init_params(config, jax.random.key(0))
    >>> generate(params, config, jnp.array([[1, 2, 3]]), num_tokens=5, key=jax.random.key(1)).shape
    (1, 8)
    """
    prompt = np.asarray(prompt_BT)
    lengths_B = _check_request(prompt, config, num_tokens, prompt_lengths)
    _check_sampling(config, temperature, top_k, top_p, stop_token)
    start_B, stored_BS = _aligned(prompt, lengths_B, config.context_length, num_tokens)
    draw = {
        "key": key,
        "temperature": jnp.float32(temperature),
        "top_p": None if top_p is None else jnp.float32(top_p),
        # What is no token ends a sequence, too.
        "stop_token": jnp.int32(-1 if stop_token is None else stop_token),
    }
    text = _read(params, stored_BS, config=config)
    for until in [num_tokens] if on_token is None else range(1, num_tokens + 1):
        text = _write(params, text, start_B, until, draw, config=config, top_k=top_k)
        if on_token is not None:
            _check_drawn(np.asarray(text.token_B)[:, None], until - 1)
            on_token(np.asarray(text.token_B))
            if text.is_done_B.all():
                break
    time_N = np.arange(num_tokens)
    written_BN = jnp.take_along_axis(text.stored_BS, start_B[:, None] + time_N, axis=1)
    # Where all are at their end, nothing more was written.
    new_BN = jnp.where(time_N < text.num_written, written_BN, text.token_B[:, None])
    if not isinstance(new_BN, jax.core.Tracer):
        _check_drawn(np.asarray(new_BN), 0)
    return jnp.concatenate([prompt.astype(np.int32), new_BN], axis=1)


def sample_token(
    logits_BV: Float[Array, "B V"],
    key: jax.Array,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> Int[Array, " B"]:
    """Draw one token for each row of logits.

    A row that holds NaN, or -inf only, gives -1, which is no token: it cannot raise under `jit`, and it must
    not pass; so does a temperature that is negative, NaN or infinite, or a `top_p` outside (0, 1]. Of
    infinite scores one is drawn, all as likely.

    Args:
        logits_BV: scores of every token.
        key: the only source of randomness.
        temperature: what the logits are divided by; 0 takes the likeliest token, the first of equals.
        top_k: draw from the `top_k` likeliest tokens only, and from what ties with the last of them.
        top_p: draw from the fewest likeliest tokens that have this probability together, and from what ties
            with the last of them.

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
    scaled_BV = scores_BV / jnp.where(is_greedy, 1, temperature)
    # The largest of a row that holds NaN is NaN.
    is_drawable_B = (
        (largest_B1[:, 0] > -jnp.inf) & jnp.isfinite(temperature) & (jnp.asarray(temperature) >= 0)
    )
    if top_p is not None:
        scaled_BV = _nucleus(scaled_BV, jnp.asarray(top_p))
        is_drawable_B &= (jnp.asarray(top_p) > 0) & (jnp.asarray(top_p) <= 1)
    drawn_B = jax.random.categorical(key, scaled_BV)
    token_B = jnp.where(is_greedy, scores_BV.argmax(axis=-1), drawn_B)
    return jnp.where(is_drawable_B, token_B, -1).astype(jnp.int32)


def _nucleus(scores_BV: Float[Array, "B V"], top_p: Float[Array, ""]) -> Float[Array, "B V"]:
    """The scores, -inf outside the fewest likeliest tokens that have probability `top_p` together."""
    descending_BV = -jnp.sort(-scores_BV, axis=-1)
    probability_BV = jax.nn.softmax(descending_BV)
    before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
    # All of them together can sum to less or more than 1 by rounding.
    is_kept_BV = (before_BV < top_p) | (top_p >= 1)
    least_B1 = jnp.where(is_kept_BV, descending_BV, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(scores_BV < least_B1, -jnp.inf, scores_BV)


def _check_request(
    prompt: np.ndarray, config: Model5Config, num_tokens: int, prompt_lengths: Any
) -> Int[np.ndarray, " B"]:
    """The prompts' lengths; TypeError or ValueError, naming the argument, unless they can be continued."""
    if prompt.ndim != 2 or 0 in prompt.shape:
        raise ValueError(f"the prompt must be [B, T] with at least one token; got shape {prompt.shape}")
    if prompt.dtype.kind not in "iu":
        raise TypeError(f"the prompt must have an integer dtype; got {prompt.dtype}")
    longest = prompt.shape[1]
    lengths_B = np.full(len(prompt), longest) if prompt_lengths is None else np.asarray(prompt_lengths)
    if lengths_B.shape != (len(prompt),) or lengths_B.dtype.kind not in "iu":
        raise ValueError(f"prompt_lengths must be {len(prompt)} integers, one a row; got {prompt_lengths}")
    if lengths_B.min() < 1 or lengths_B.max() > longest:
        raise ValueError(f"prompt_lengths must be in [1, {longest}]; got {prompt_lengths}")
    is_prompt = np.arange(longest) >= longest - lengths_B[:, None]
    outside = is_prompt & ((prompt < 0) | (prompt >= config.vocab_size))
    if outside.any():
        raise ValueError(
            f"the prompt must hold ids in [0, {config.vocab_size}), the vocabulary; got {prompt[outside][0]}"
        )
    check_integer("num_tokens", num_tokens, low=1)
    return lengths_B


def _check_sampling(
    config: Model5Config, temperature: float, top_k: int | None, top_p: float | None, stop_token: int | None
) -> None:
    check_number("temperature", temperature, low=0, open_high=True)
    if top_k is not None:
        check_integer("top_k", top_k, low=1, high=config.vocab_size)
    if top_p is not None:
        check_number("top_p", top_p, low=0, high=1, open_low=True)
    if stop_token is not None:
        check_integer("stop_token", stop_token, low=0, high=config.vocab_size - 1)


def _check_drawn(new_BN: np.ndarray, first: int) -> None:
    """Raise if a new token, the `first` or a later one of its sequence, is none."""
    if (new_BN < 0).any():
        row, i = np.argwhere(new_BN < 0)[0]
        raise ValueError(
            f"params give logits of which no token can be drawn, NaN or all -inf, for token {first + i} "
            f"of sequence {row}: look for NaN, infinity or huge numbers in params"
        )


def _aligned(
    prompt_BT: np.ndarray, lengths_B: np.ndarray, context: int, num_tokens: int
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, "B S"]]:
    """Where each new text begins, and room for it behind what the model sees of its prompt."""
    start_B = np.minimum(lengths_B, context)
    stored_BS = np.zeros((len(prompt_BT), -(-(start_B.max() + num_tokens) // context) * context), np.int32)
    for stored_S, prompt_T, start in zip(stored_BS, prompt_BT, start_B, strict=True):
        stored_S[:start] = prompt_T[-start:]
    return start_B, stored_BS


@partial(jax.jit, static_argnames="config")
def _read(params: Params, stored_BS: Int[Array, "B S"], *, config: Model5Config) -> _Text:
    """Keys and values of the prompts; those of the padding are out of sight, and written over in time."""
    shape = (len(stored_BS), config.context_length, config.num_heads, config.head_dim)
    empty = tuple((jnp.zeros(shape, jax.tree.leaves(params)[0].dtype),) * 2 for _ in range(config.num_blocks))
    ids_BL = stored_BS[:, : config.context_length]
    apply: Callable[..., Any] = Model5(config).apply
    _, cache = apply({"params": params}, ids_BL, empty, 0, method="extend")
    nobody = jnp.zeros(len(stored_BS), bool)
    return _Text(stored_BS, cache, jnp.int32(0), jnp.zeros(len(stored_BS), jnp.int32), nobody)


@partial(jax.jit, static_argnames=("config", "top_k"), donate_argnames="text")
def _write(
    params: Params,
    text: _Text,
    start_B: Int[Array, " B"],
    until: Int[Array, ""],
    draw: dict[str, Any],
    *,
    config: Model5Config,
    top_k: int | None,
) -> _Text:
    """Add tokens until there are `until`, or every sequence is at its end."""
    apply: Callable[..., Any] = partial(Model5(config).apply, {"params": params})
    context = config.context_length

    def with_sample(text: _Text, hidden_BD: jax.Array, cache: tuple[KeyValue, ...]) -> _Text:
        step_key = jax.random.fold_in(draw["key"], text.num_written)
        logits_BV = apply(hidden_BD, method="logits")
        drawn_B = sample_token(logits_BV, step_key, draw["temperature"], top_k, draw["top_p"])
        token_B = jnp.where(text.is_done_B, text.token_B, drawn_B)
        rows_B = jnp.arange(len(token_B))
        stored_BS = text.stored_BS.at[rows_B, start_B + text.num_written].set(token_B)
        is_done_B = (token_B == draw["stop_token"]) | (token_B < 0)
        return _Text(stored_BS, cache, text.num_written + 1, token_B, text.is_done_B | is_done_B)

    def cached_step(text: _Text) -> _Text:
        @jax.vmap
        def extend(stored_S, cache, position):
            one = jax.tree.map(lambda x: x[None], (stored_S[position][None], cache))
            hidden_11D, cache = apply(*one, position, method="extend")
            return hidden_11D[0, 0], jax.tree.map(lambda x: x[0], cache)

        return with_sample(text, *extend(text.stored_BS, text.cache, start_B + text.num_written - 1))

    def sliding_step(text: _Text) -> _Text:
        stop_B = start_B + text.num_written
        first_B = jnp.maximum(stop_B - context, 0)
        window_BL = jnp.take_along_axis(text.stored_BS, first_B[:, None] + jnp.arange(context), axis=1)
        hidden_BLD = apply(window_BL, method="hidden")
        hidden_BD = hidden_BLD[jnp.arange(len(stop_B)), stop_B - first_B - 1]
        return with_sample(text, hidden_BD, text.cache)

    def write(step: Callable[[_Text], _Text], text: _Text, until: jax.Array) -> _Text:
        return jax.lax.while_loop(lambda text: (text.num_written < until) & ~text.is_done_B.all(), step, text)

    # Until the first text leaves its context.
    text = write(cached_step, text, jnp.minimum(until, context + 1 - start_B.max()))
    return write(sliding_step, text, until) if text.stored_BS.shape[1] > context else text
