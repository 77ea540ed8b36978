"""Generation: with the cache against without it, greedy text against torch, and the sampler itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxloss.model5 as jax_side
import torch_ref.model5 as torch_side
from jaxloss.model5 import Model5
from jaxloss.model5.generate import _read, _write
from parity_tests.compare import assert_same
from parity_tests.model5.pairs import TINY, jax_params, torch_model
from parity_tests.quick_compilation import jit

PROMPTS = np.random.default_rng(0).integers(TINY.vocab_size, size=(2, 20))
KEY = jax.random.key(1)


@partial(jit, static_argnames="top_k")
def next_token(params, padded_BL, length, key, temperature, top_k):
    """One token from a whole forward pass over the window; what lies right of it is out of sight."""
    logits_BLV = Model5(TINY).apply({"params": params}, padded_BL)
    return jax_side.sample_token(logits_BLV[:, length - 1], key, temperature, top_k)


def generate_without_cache(params, prompt_BT, num_tokens, key, temperature=1.0, top_k=None):
    ids_BN = prompt_BT
    for i in range(num_tokens):
        window_BT = ids_BN[:, -TINY.context_length :]
        padded_BL = np.pad(window_BT, ((0, 0), (0, TINY.context_length - window_BT.shape[1])))
        step_key = jax.random.fold_in(key, i)
        token_B = next_token(params, padded_BL, window_BT.shape[1], step_key, temperature, top_k)
        ids_BN = np.concatenate([ids_BN, token_B[:, None]], axis=1)
    return ids_BN


# Within the context, filling it exactly, sliding out of it, a prompt that fills it, and a longer one.
@pytest.mark.parametrize(("length", "num_tokens"), [(1, 9), (6, 10), (6, 11), (6, 26), (16, 3), (20, 5)])
def test_cached_generation_equals_cacheless_token_for_token(length, num_tokens):
    params, prompt_BT = jax_params("float64"), PROMPTS[:, :length]
    # Each top_k compiles anew; the longest text stands for it.
    with_top_k = [{"temperature": 1.7, "top_k": 5}] if num_tokens == 26 else []
    for options in ({}, {"temperature": 0.0}, *with_top_k):
        actual = jax_side.generate(params, TINY, prompt_BT, num_tokens=num_tokens, key=KEY, **options)
        assert actual.dtype == jnp.int32
        assert_same(actual, generate_without_cache(params, prompt_BT, num_tokens, KEY, **options))


@pytest.mark.parametrize(("length", "num_tokens"), [(6, 26), (20, 16)])
def test_greedy_text_equals_torch(length, num_tokens):
    prompt_BT = PROMPTS[:, :length]
    options = {"num_tokens": num_tokens, "temperature": 0.0}
    actual = jax_side.generate(jax_params("float64"), TINY, prompt_BT, key=KEY, **options)
    # Left in training mode: generation turns dropout off by itself, and the mode back on.
    model = torch_model("float64").train()
    expected = torch_side.generate(
        model, TINY, torch.tensor(prompt_BT), generator=torch.Generator().manual_seed(0), **options
    )
    assert_same(actual, expected)
    assert model.training


def test_text_follows_the_key_and_the_generator():
    def jax_text(seed):
        key = jax.random.key(seed)
        return np.asarray(
            jax_side.generate(jax_params("float64"), TINY, PROMPTS[:, :6], num_tokens=10, key=key)
        )

    def torch_text(seed):
        generator = torch.Generator().manual_seed(seed)
        prompt_BT = torch.tensor(PROMPTS[:, :6])
        return torch_side.generate(
            torch_model("float64"), TINY, prompt_BT, num_tokens=10, generator=generator
        ).numpy()

    for text in (jax_text, torch_text):
        assert_same(text(0), text(0))
        assert not np.array_equal(text(0), text(1))
        # Rows of one prompt are drawn independently.
        assert not np.array_equal(text(0)[0, 6:], text(0)[1, 6:])


def test_generation_compiles_once_for_all_lengths_within_the_context():
    params = jax_params("float64")
    jax_side.generate(params, TINY, PROMPTS[:, :6], num_tokens=10, key=KEY)
    compiled = _read._cache_size(), _write._cache_size()
    options = {"stop_token": 3, "prompt_lengths": [1, 2], "on_token": print}
    for length, num_tokens, temperature in ((2, 3, 1.0), (9, 5, 0.0), (15, 1, 0.3)):
        jax_side.generate(
            params,
            TINY,
            PROMPTS[:, :length],
            num_tokens=num_tokens,
            key=KEY,
            temperature=temperature,
            **options,
        )
    assert (_read._cache_size(), _write._cache_size()) == compiled


# The second text leaves its context long before the first: both slide from then on.
def test_prompts_of_different_lengths_go_on_as_each_alone():
    params, model, lengths = jax_params("float64"), torch_model("float64"), [3, 13]
    options = {"num_tokens": 19, "temperature": 0.0}
    prompt_BT = PROMPTS[:, :13].copy()
    prompt_BT[0, :-3] = -7
    actual = jax_side.generate(params, TINY, prompt_BT, key=KEY, prompt_lengths=lengths, **options)
    expected = torch_side.generate(
        model,
        TINY,
        torch.tensor(prompt_BT),
        generator=torch.Generator(),
        prompt_lengths=torch.tensor(lengths),
        **options,
    )
    assert_same(actual, expected)
    for row, length in enumerate(lengths):
        # Twice, for a batch of the size that is compiled already.
        alone = np.repeat(prompt_BT[row : row + 1, -length:], 2, axis=0)
        alone = jax_side.generate(params, TINY, alone, key=KEY, **options)
        assert_same(actual[row, -19 - length :], alone[0])


@pytest.mark.parametrize("side", ["jax", "torch"])
def test_a_sequence_holds_its_stop_token_to_the_end_and_tokens_come_as_they_are_drawn(side):
    arguments, options = [TINY, PROMPTS[:, :6]], {"num_tokens": 10, "temperature": 0.0}
    if side == "jax":
        generate, arguments, options["key"] = jax_side.generate, [jax_params("float64"), *arguments], KEY
    else:
        generate, options["generator"] = torch_side.generate, torch.Generator()
        arguments = [torch_model("float64"), TINY, torch.tensor(PROMPTS[:, :6])]
    free = np.asarray(generate(*arguments, **options))
    stop = int(free[0, 8])
    expected = free.copy()
    for row in expected:
        row[6 + np.argmax([*(row[6:] == stop), True]) :] = stop
    heard = []
    stopped = generate(*arguments, **options, stop_token=stop, on_token=heard.append)
    assert_same(stopped, expected)
    assert len(heard) == max(np.argmax(row[6:] == stop) + 1 if stop in row[6:] else 10 for row in free)
    assert_same(np.stack(heard, axis=1), expected[:, 6 : 6 + len(heard)])


def draw_many(side, logits_V, temperature, top_k, top_p=None, num_draws=40_000):
    logits_BV = np.broadcast_to(logits_V, (num_draws, len(logits_V)))
    if side == "jax":
        tokens = jax_side.sample_token(jnp.asarray(logits_BV), jax.random.key(2), temperature, top_k, top_p)
    else:
        generator = torch.Generator().manual_seed(2)
        tokens = torch_side.sample_token(torch.tensor(logits_BV), generator, temperature, top_k, top_p)
    return np.bincount(np.asarray(tokens), minlength=len(logits_V)) / num_draws


@pytest.mark.parametrize("side", ["jax", "torch"])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, 1.0), (1.1, None, None), (0.5, 3, None), (3.0, 1, 0.9), (1.0, None, 0.6), (2.0, 4, 0.8)],
)
def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(side, temperature, top_k, top_p):
    logits_V = np.array([1.0, -2.0, 3.0, 0.5, 2.9])
    weights_V = np.exp(logits_V / temperature)
    if top_k is not None:
        weights_V[logits_V < np.sort(logits_V)[-top_k]] = 0
    expected_V = weights_V / weights_V.sum()
    if top_p is not None:
        order = np.argsort(-expected_V)
        num_kept = 1 + np.searchsorted(np.cumsum(expected_V[order]), top_p)
        expected_V[order[num_kept:]] = 0
        expected_V /= expected_V.sum()
    frequency_V = draw_many(side, logits_V, temperature, top_k, top_p)
    # Six standard deviations of each frequency.
    assert (abs(frequency_V - expected_V) <= 6 * np.sqrt(expected_V * (1 - expected_V) / 40_000)).all()


@pytest.mark.parametrize("side", ["jax", "torch"])
@pytest.mark.parametrize("temperature", [0.0, 1e-30])
def test_temperature_near_zero_takes_the_likeliest_token(side, temperature):
    for logits_V in ([0.0, 3e4, 2e4], [-3e4, -1e4, -2e4]):
        assert_same(
            draw_many(side, np.array(logits_V, np.float32), temperature, None, num_draws=100), [0.0, 1.0, 0.0]
        )


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1.0])
def test_logits_without_a_distribution_give_no_token_and_infinite_ones_their_own(temperature, top_k):
    nan, inf = np.nan, np.inf
    rows = {(nan, nan, nan): {-1}, (0.0, nan, inf): {-1}, (-inf, -inf, -inf): {-1}}
    rows |= {(0.0, inf, 1.0): {1}, (-inf, -inf, 5.0): {2}}
    rows[(-inf, inf, inf)] = {1} if temperature == 0 else {1, 2}
    for dtype in (np.float32, np.float64):
        logits_BV = np.repeat(np.array(list(rows), dtype), 40, axis=0)
        drawn = jax_side.sample_token(jnp.asarray(logits_BV), KEY, temperature, top_k)
        generator = torch.Generator().manual_seed(0)
        torch_drawn = torch_side.sample_token(torch.tensor(logits_BV), generator, temperature, top_k)
        for tokens_B in (np.asarray(drawn), torch_drawn.numpy()):
            assert [set(tokens.tolist()) for tokens in tokens_B.reshape(len(rows), 40)] == list(rows.values())


@pytest.mark.parametrize("temperature", [np.nan, np.inf, -1.0])
def test_no_token_is_drawn_at_a_temperature_that_is_none(temperature):
    drawn = jax_side.sample_token(jnp.zeros((2, 3)), KEY, jnp.float32(temperature))
    torch_drawn = torch_side.sample_token(torch.zeros(2, 3), torch.Generator(), temperature)
    assert drawn.tolist() == torch_drawn.tolist() == [-1, -1]


def test_parameters_that_give_nan_are_refused_and_generate_no_token():
    params, model = jax_params("float64"), torch_model("float64")
    params["ln_f"]["bias"] = params["ln_f"]["bias"].at[0].set(np.nan)
    with torch.no_grad():
        model.ln_f.bias[0] = np.nan
    options = {"num_tokens": 10, "temperature": 0.0}
    message = "NaN or all -inf, for token 0 of sequence 0: look for NaN"
    with pytest.raises(ValueError, match=message):
        jax_side.generate(params, TINY, PROMPTS[:, :6], key=KEY, **options)
    ids_BN = jax.jit(lambda p: jax_side.generate(p, TINY, PROMPTS[:, :6], key=KEY, **options))(params)
    assert ((np.asarray(ids_BN) == -1) == (np.arange(16) > 5)).all()
    with pytest.raises(ValueError, match="no token can be drawn"):
        torch_side.generate(
            model, TINY, torch.tensor(PROMPTS[:, :6]), generator=torch.Generator().manual_seed(0), **options
        )


WRONG = [
    ({"prompt": np.zeros((1, 0), int)}, ValueError, r"at least one token; got shape \(1, 0\)"),
    ({"prompt": np.zeros(3, int)}, ValueError, r"must be \[B, T\]"),
    ({"prompt": np.zeros((1, 3))}, TypeError, "integer dtype; got float64"),
    ({"prompt": np.array([[3, 61]])}, ValueError, r"ids in \[0, 61\), the vocabulary; got 61"),
    ({"prompt": np.array([[-1, 6]])}, ValueError, "got -1"),
    ({"num_tokens": 0}, ValueError, "num_tokens must be at least 1; got 0"),
    ({"num_tokens": 2.0}, TypeError, r"num_tokens must be an int; got 2\.0"),
    ({"temperature": -0.1}, ValueError, r"temperature must be in \[0, inf\); got -0\.1"),
    ({"temperature": float("nan")}, ValueError, "temperature must be"),
    ({"temperature": "hot"}, TypeError, "temperature must be a number"),
    ({"top_k": 0}, ValueError, r"top_k must be in \[1, 61\]; got 0"),
    ({"top_k": 62}, ValueError, r"top_k must be in \[1, 61\]; got 62"),
    ({"top_p": 0}, ValueError, r"top_p must be in \(0, 1\]; got 0"),
    ({"top_p": 1.1}, ValueError, r"top_p must be in \(0, 1\]; got 1\.1"),
    ({"stop_token": 61}, ValueError, r"stop_token must be in \[0, 60\]; got 61"),
    ({"prompt_lengths": np.array([1])}, ValueError, "prompt_lengths must be 2 integers, one a row"),
    ({"prompt_lengths": np.array([1, 21])}, ValueError, r"prompt_lengths must be in \[1, 20\]"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
def test_wrong_requests_are_refused_on_both_sides_and_named_on_ours(wrong, error, message):
    request = {"prompt": PROMPTS, "num_tokens": 1, **wrong}
    prompt_BT = request.pop("prompt")
    with pytest.raises(error, match=message):
        jax_side.generate(jax_params("float32"), TINY, prompt_BT, key=KEY, **request)
    if "prompt_lengths" in request:
        request["prompt_lengths"] = torch.tensor(request["prompt_lengths"])
    with pytest.raises((ValueError, TypeError, IndexError, RuntimeError)):
        torch_side.generate(
            torch_model("float32"), TINY, torch.tensor(prompt_BT), generator=torch.Generator(), **request
        )


def test_bfloat16_weights_generate():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), jax_params("float32"))
    text = jax.eval_shape(partial(_read, config=TINY), params, jnp.zeros((2, 32), jnp.int32))
    draw = {"key": KEY, "temperature": 1.0, "top_p": 0.5, "stop_token": 1}
    start_B = jnp.array([6, 7])
    written = jax.eval_shape(partial(_write, config=TINY, top_k=3), params, text, start_B, 20, draw)
    assert (written.stored_BS.shape, written.stored_BS.dtype) == ((2, 32), jnp.int32)
