"""Going on from a trained model: what is its own, and what may be asked for."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxloss.data import make_tokenizer
from jaxloss.model5 import Model5Config, init_params
from jaxloss.runs.settings import DataConfig
from jaxloss.runs.trained import TrainedModel, check_tokenizer, fine_tuned

CONFIG = Model5Config(vocab_size=257, context_length=4, embed_dim=8, num_heads=2, num_blocks=1)
DEFAULT = Model5Config(context_length=64, embed_dim=128, num_heads=4, num_blocks=2)


@pytest.fixture(scope="module")
def start():
    params = init_params(CONFIG, jax.random.key(0))
    return TrainedModel(params, CONFIG, make_tokenizer("bytes"), Path("weights"))


def asked(**changed):
    """The default model, but for what is asked for."""
    return Model5Config(**vars(DEFAULT) | changed)


def test_dropout_may_be_asked_for_and_all_else_is_the_trained_models(start):
    model = fine_tuned(start, asked(dropout=0.5), DEFAULT)
    assert model.config == Model5Config(**vars(CONFIG) | {"dropout": 0.5})
    jax.tree.map(np.testing.assert_array_equal, model.params, start.params)


def test_tokens_that_fill_up_a_vocabulary_take_no_more_probability_than_their_share(start):
    model = fine_tuned(start, asked(vocab_size=264), DEFAULT)
    table = np.asarray(model.params["wte"]["embedding"], np.float64)
    assert model.config.vocab_size == len(table) == 264
    np.testing.assert_array_equal(table[:257], start.params["wte"]["embedding"])
    hidden = np.random.default_rng(0).normal(0, [[1.0], [100.0]], (2, 8))
    probability = np.exp(hidden @ table.T)
    assert (probability[:, 257:].sum(1) < 7 / 264 * probability.sum(1)).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_heads": 8}, "model.num_heads is 8, but the model of --init has 2: leave it out"),
        ({"vocab_size": 256}, "model.vocab_size is 256, but the model of --init has 257: leave it out"),
    ],
)
def test_other_sizes_are_refused(changed, message, start):
    with pytest.raises(ValueError, match=message):
        fine_tuned(start, asked(**changed), DEFAULT)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokenizer": "gpt2"}, "data.tokenizer is gpt2, but that of --init is bytes: leave it out"),
        ({"vocab_size": 300}, r"data.vocab_size is 300, but that of --init is \d+: leave it out"),
    ],
)
def test_another_tokenizer_is_refused(changed, message, start):
    with pytest.raises(ValueError, match=message):
        check_tokenizer(start.tokenizer, DataConfig(**changed), DataConfig())
    check_tokenizer(start.tokenizer, DataConfig(tokenizer="bytes"), DataConfig())
