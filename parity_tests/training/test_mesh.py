"""Training on a mesh of devices: the numbers of one device, its share of the memory, and no tokens moved."""

import dataclasses
import re
from functools import cache

import jax
import numpy as np
import pytest

from jaxloss import linear_next_token_loss, training
from jaxloss.model5 import Model5, Model5Config, init_params
from parity_tests.compare import assert_within
from parity_tests.quick_compilation import OPTIONS
from parity_tests.training import tiny

# No two arrays of the model, and none of the tokens', have the same shape.
CONFIG = Model5Config(vocab_size=56, context_length=6, embed_dim=20, num_heads=4, num_blocks=1, dropout=0.1)
MODEL = Model5(CONFIG)
BATCH_SIZE = 16
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (BATCH_SIZE, CONFIG.context_length + 1))
BATCH = TOKENS[:, :-1], np.where(TOKENS[:, 1:] % 5, TOKENS[:, 1:], -100)
LAYOUTS = {
    "data": {"data": 4},
    "split parameters": {"data": 2, "fsdp": 2},
    "split parameters and heads": {"data": 2, "fsdp": 2, "tensor": 2},
}


@cache
def params(config):
    drawn = init_params(config, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), drawn)


@cache
def train_step():
    def loss(*arguments, **options):
        return linear_next_token_loss(*arguments, **options, implementation="chunked", chunk_size=32)

    return training.make_train_step(loss, from_hidden=True, accumulate=2)


@cache
def optimizer():
    return training.make_optimizer()


def start(devices=8, model=MODEL, **mesh):
    """A state on the first devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])
        mesh = training.make_mesh(batch_size=BATCH_SIZE, **mesh)
    drawn = params(model.config)
    return training.init_state(model.apply, drawn, optimizer(), batch_size=BATCH_SIZE, mesh=mesh)


@cache
def run(devices=8, model=MODEL, **mesh):
    """A step: its program, the state before and after, loss and norm."""
    state = start(devices, model, **mesh)
    before = jax.tree.map(np.array, state), [leaf.sharding for leaf in jax.tree.leaves(state)]
    program = train_step().lower(state, *BATCH, jax.random.key(1)).compile(compiler_options=OPTIONS)
    batch = training.place_batch((*BATCH, jax.random.key(1)), state.params)
    return program.as_text(), before, program(state, *batch)


def assert_same_step(made, expected):
    """Loss, norm and gradients."""
    (state, *values), (expected, *expected_values) = made, expected
    assert_within(np.array(values), np.array(expected_values), 64, "float64", what="loss and norm")
    averages = [s.opt_state[0].mu for s in (state, expected)]  # Adam's first is a tenth of the gradient
    jax.tree.map(lambda a, b: assert_within(a, b, 64, "float64"), *averages)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_gradients_are_those_of_one_device_with_dropout_on(layout):
    _, (_, lay), (state, *values) = run(**LAYOUTS[layout])
    assert_same_step((state, *values), run(devices=1)[2])
    # As it was, or the next step would be another program.
    assert [leaf.sharding for leaf in jax.tree.leaves(state)] == lay


def shapes(program, kind):
    """The shapes that a kind of collective gives."""
    found = re.findall(rf"= \S+?\[([\d,]*)\]\S* {kind}\(", program)
    return {tuple(int(n) for n in shape.split(",") if n) for shape in found}


def assert_exchanges_no_tokens(program, params, tensor=1):
    """It gathers parameters one by one."""
    whole = {leaf.shape for leaf in jax.tree.leaves(params)}
    # A device's part of the vocabulary, of the MLP, and a head's view of its projection.
    parts = {(56 // tensor, 20), (80 // tensor,), (20, 80 // tensor), (80 // tensor, 20), (20 // tensor, 20)}
    gathered = {shape[shape[0] == 1 :] for shape in shapes(program, "all-gather")}
    assert gathered <= whole | parts | {(20, 3, 4, 5), (3, 4, 5)}
    assert not shapes(program, "all-to-all")
    return gathered


@pytest.mark.parametrize("layout", LAYOUTS)
def test_devices_exchange_parameters_and_sums_but_no_tokens(layout):
    program, (before, _), _ = run(**LAYOUTS[layout])
    gathered = assert_exchanges_no_tokens(program, before.params, LAYOUTS[layout].get("tensor", 1))
    assert bool(gathered) == (layout != "data")


def test_a_loop_over_blocks_gathers_them_in_turn_and_gives_the_same_numbers():
    model = Model5(dataclasses.replace(CONFIG, num_blocks=3))
    looped = model.clone(scan=True, remat=True)
    program, (before, _), made = run(model=looped, **LAYOUTS["split parameters and heads"])
    assert_same_step(made, run(devices=1, model=model)[2])
    assert_exchanges_no_tokens(program, before.params, tensor=2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_and_averages_take_their_share_of_a_device(layout):
    state, split = start(**LAYOUTS[layout]), LAYOUTS[layout].get("fsdp", 1) * LAYOUTS[layout].get("tensor", 1)
    for tree in (state.params, state.opt_state[0].mu, state.opt_state[0].nu):
        leaves = jax.tree.leaves(tree)
        on_first = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        assert on_first * split == sum(leaf.nbytes for leaf in leaves)


def test_held_out_loss_is_that_of_one_device():
    eval_step = training.make_eval_step({"all": linear_next_token_loss}, from_hidden=True)
    one, many = (
        eval_step(start(**where), *BATCH) for where in ({"devices": 1}, LAYOUTS["split parameters and heads"])
    )
    assert_within(many["all"], one["all"], 64, "float64")


def test_a_batch_takes_as_many_devices_as_divide_it_and_says_so(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:4])
    with pytest.warns(UserWarning, match="batch_size 6 is shared by 3 of 4 devices: a multiple of 4 would"):
        assert training.make_mesh(batch_size=6).shape == {"data": 3, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"data": 16}, "the mesh data 16 x fsdp 1 x tensor 1 needs 16 devices; there are 8"),
        ({"data": 3}, "batch_size must be a multiple of data x fsdp = 3, which share it; got 16"),
        ({"tensor": 0}, "tensor must be at least 1; got 0"),
        ({"tensor": 3}, r"tensor must divide axis 0 of h_0/attn/c_proj/kernel \[20, 20\], .* got 3"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(mesh, message):
    with pytest.raises(ValueError, match=message):
        start(**mesh)


def test_heads_that_do_not_divide_are_named():
    state = start(tensor=2)
    model = Model5(dataclasses.replace(CONFIG, num_heads=5))
    with pytest.raises(ValueError, match="num_heads must be a multiple of the mesh's tensor=2"):
        train_step()(state.replace(apply_fn=model.apply), *BATCH, jax.random.key(1))


@pytest.mark.parametrize("axes", [("tensor",), ("data", "tensor")])
def test_another_mesh_with_an_axis_of_one_of_our_names_is_left_to_its_maker(axes):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape((1,) * len(axes)), axes)
    with jax.set_mesh(mesh):
        logits = jax.jit(tiny.apply_fn())({"params": tiny.params()}, tiny.batch(0)[0])
    assert np.isfinite(logits).all()
