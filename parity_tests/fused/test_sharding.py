"""The chunked head on four devices: a sharded batch, a sharded vocabulary, both."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxloss.fused import linear_cross_entropy, linear_distillation_loss, linear_log_prob
from jaxloss.losses import make_checked
from parity_tests.compare import assert_within
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import VALUE_EPS_OF_MAX

BATCH, TIME, WIDTH, CLASSES = 4, 8, 6, 12
_RNG = np.random.default_rng(0)
HIDDEN, HEAD = _RNG.standard_normal((BATCH, TIME, WIDTH)), _RNG.standard_normal((CLASSES, WIDTH))
LABELS = _RNG.integers(0, CLASSES, (BATCH, TIME))
LABELS[0, 3] = -100
WEIGHT, BIAS = _RNG.uniform(0.5, 2.0, CLASSES), _RNG.standard_normal(CLASSES)
TOKEN_WEIGHT = _RNG.uniform(0.5, 2.0, (BATCH, TIME))
PROBABILITIES = _RNG.dirichlet(np.ones(CLASSES), (BATCH, TIME))
COTANGENT = _RNG.uniform(0.5, 2.0, (BATCH, TIME))
SCALARS = {"label_smoothing": 0.1, "z_loss": 0.1, "logit_softcap": 3.0, "logit_scale": 0.7}
CHUNKED = {"implementation": "chunked", "chunk_size": 8}

# (where the collective is, what it is, the largest number of elements it moves)
Collective = tuple[str, str, int]


def collectives(program: str) -> list[Collective]:
    """The collectives of a compiled program, "once" or in a "loop"."""
    found, place = [], "once"
    for line in program.splitlines():
        if re.match(r"^(ENTRY )?%?\S+ .*\{$", line):
            place = "once" if line.startswith("ENTRY") else "loop"
        kind = re.search(
            r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)", line
        )
        if kind:
            sizes = [
                np.prod([int(n) for n in s.split(",") if n]) for s in re.findall(r"\[([\d,]*)\]", kind[1])
            ]
            found.append((place, kind[2], int(max(sizes))))
    return found


def assert_equal(actual, expected) -> None:
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_within(a, b, VALUE_EPS_OF_MAX)


def whole(hidden, head, target=LABELS, **options):
    return linear_cross_entropy(hidden, head, target, implementation="reference", **options)


def test_batch_on_automatic_axes():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    specs = P("data"), P(), P("data")
    placed = [
        jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((HIDDEN, HEAD, LABELS), specs, strict=True)
    ]
    step = jit(jax.value_and_grad(partial(linear_cross_entropy, **CHUNKED), (0, 1)))
    compiled = step.lower(*placed).compile()
    assert_equal(compiled(*placed), jit(jax.value_and_grad(whole, (0, 1)))(HIDDEN, HEAD))
    moved = collectives(compiled.as_text())
    assert {kind for _, kind, _ in moved} == {"all-reduce"}, "tokens move between devices"
    # XLA's CPU pipeline leaves the sum of the weight's gradient in the loop; the other layouts below do not.
    assert ("loop", "all-reduce", CLASSES * WIDTH) in moved


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_explicit_axes(reduction):
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    arrays = {"hidden": HIDDEN, "head": HEAD, "weight": WEIGHT, "sample_weight": TOKEN_WEIGHT}
    # One array: each one's gradient is a sum over all tokens, which may cancel to next to nothing.
    arrays["scalars"] = np.array([*SCALARS.values()])

    def loss(arrays, implementation):
        hidden, head = arrays["hidden"], arrays["head"]
        losses, statistics = linear_cross_entropy(
            hidden,
            head,
            LABELS,
            weight=arrays["weight"],
            sample_weight=arrays["sample_weight"],
            **dict(zip(SCALARS, arrays["scalars"], strict=True)),
            reduction=reduction,
            implementation=implementation,
            chunk_size=4,
            return_statistics=True,
        )
        cotangent = COTANGENT if reduction == "none" else 0.7
        return jnp.sum(losses * cotangent), statistics

    of_classes = {"hidden": P("data"), "head": P("model"), "weight": P("model"), "sample_weight": P("data")}
    layouts = {"tokens": {"hidden": P("data", "model")}, "tokens and classes": of_classes}
    if reduction == "mean":
        layouts["width"] = {"hidden": P(None, None, "data"), "head": P("model", "data")}
    step = jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    with jax.set_mesh(mesh):
        wanted = step(jax.tree.map(jnp.asarray, arrays), "reference")
        for name, specs in layouts.items():
            placed = {k: jax.device_put(a, NamedSharding(mesh, specs.get(k, P()))) for k, a in arrays.items()}
            compiled = step.lower(placed, "chunked").compile()
            assert_equal(compiled(placed), wanted)
            looped = [m for m in collectives(compiled.as_text()) if m[0] == "loop"]
            # A split vocabulary exchanges sums of a chunk's tokens; the weight's gradient is larger.
            assert all(size <= 4 * WIDTH for *_, size in looped), looped
            assert looped == [] or name != "tokens"


def test_several_heads_on_explicit_axes():
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    heads, specs = HEAD[:, None] * np.arange(3)[:, None], (P("data"), P("model"), P("data"))
    arrays = HIDDEN, heads, np.stack([PROBABILITIES] * 3, 2)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs, strict=True)]
        assert_equal(jit(partial(linear_cross_entropy, **CHUNKED))(*placed), jit(whole)(*arrays))


def test_distillation_on_explicit_axes():
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    target = jnp.asarray(LABELS)

    def loss(hidden, head, chunk_size):
        teacher = jnp.asarray(HIDDEN)[..., ::-1], jnp.asarray(HEAD)
        options = {"hard_weight": 0.3, "sample_weight": TOKEN_WEIGHT, "chunk_size": chunk_size}
        return linear_distillation_loss(hidden, head, *teacher, target, **options)

    step = jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    wanted = step(jnp.asarray(HIDDEN), jnp.asarray(HEAD), BATCH * TIME)
    with jax.set_mesh(mesh):
        specs = P("data"), P("model")
        placed = [
            jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((HIDDEN, HEAD), specs, strict=True)
        ]
        assert_equal(step(*placed, 4), wanted)


def test_shard_map_over_the_batch():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    specs = P("data"), P(), P("data"), P("data")

    @partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=P())
    def data_parallel(hidden, head, labels, cotangent):
        local = partial(linear_cross_entropy, hidden, head, labels, **CHUNKED)
        total = lax.psum(local(reduction="sum"), "data") / lax.psum(
            jnp.sum(labels != -100).astype(float), "data"
        )
        return total + lax.psum(jnp.sum(cotangent * local(reduction="none")), "data")

    def expected(hidden, head):
        return whole(hidden, head) + jnp.sum(COTANGENT * whole(hidden, head, reduction="none"))

    step = jit(jax.value_and_grad(data_parallel, (0, 1)))
    compiled = step.lower(HIDDEN, HEAD, LABELS, COTANGENT).compile()
    actual = compiled(HIDDEN, HEAD, LABELS, COTANGENT)
    assert_equal(actual, jit(jax.value_and_grad(expected, (0, 1)))(HIDDEN, HEAD))
    assert all(place == "once" for place, *_ in collectives(compiled.as_text()))


def split_vocabulary(loss, specs):
    """`loss` of arrays, their class axes split over "model", of a mesh whose other axis splits nothing."""
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    return jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P())


VOCABULARY = {
    "labels": {},
    "smoothing and class weights": {"label_smoothing": 0.1, "weight": WEIGHT},
    "scalars, bias, class weights": {
        "scalars": np.array([*SCALARS.values()]), "linear_bias": BIAS, "weight": WEIGHT,
    },
    "probabilities": {"target": PROBABILITIES},
    "probabilities, smoothing, class weights": {
        "target": PROBABILITIES, "label_smoothing": 0.1, "weight": WEIGHT, "sample_weight": TOKEN_WEIGHT,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", VOCABULARY)
def test_split_vocabulary(name):
    options = VOCABULARY[name]
    of_classes = {"head": P("model"), "weight": P("model"), "linear_bias": P("model")}
    arrays = {"hidden": HIDDEN, "head": HEAD} | {k: a for k, a in options.items() if np.shape(a)}
    arrays = jax.tree.map(jnp.asarray, arrays)
    specs = {k: P(None, None, "model") if k == "target" else of_classes.get(k, P()) for k in arrays}
    scalars = {k: v for k, v in options.items() if k not in arrays}

    def loss(arrays, **how):
        options = {"target": LABELS} | scalars | arrays
        options |= zip(SCALARS, options.pop("scalars", ()), strict=False)
        return linear_cross_entropy(options.pop("hidden"), options.pop("head"), **options, **how)

    split = split_vocabulary(partial(loss, axis_name="model", **CHUNKED), (specs,))
    wanted = jit(jax.value_and_grad(partial(loss, implementation="reference")))(arrays)
    assert_equal(jit(jax.value_and_grad(split))(arrays), wanted)
    if name == "probabilities":
        rng = np.random.default_rng(1)
        tangents = {k: jnp.asarray(rng.standard_normal(a.shape)) for k, a in arrays.items()}
        actual, wanted = (
            jit(lambda a, t, f=f: jax.jvp(jax.grad(f), (a,), (t,)))(arrays, tangents)
            for f in (split, partial(loss, implementation="reference"))
        )
        assert_equal(actual, wanted)


def test_labels_of_a_split_vocabulary_are_checked_against_the_whole():
    def loss(head, labels):
        return make_checked(linear_cross_entropy)(HIDDEN, head, labels, axis_name="model", **CHUNKED)

    step = jit(checkify.checkify(split_vocabulary(loss, (P("model"), P()))))
    error, _ = step(HEAD, LABELS)
    error.throw()
    error, _ = step(HEAD, np.where(LABELS == CLASSES - 1, CLASSES, LABELS))
    with pytest.raises(ValueError, match=f"is {CLASSES}, outside \\[0, {CLASSES}\\)"):
        error.throw()


def test_batch_and_vocabulary():
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = P("data"), P("model"), P("data")

    @partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=P())
    def both(hidden, head, labels):
        total = linear_cross_entropy(hidden, head, labels, reduction="sum", axis_name="model", **CHUNKED)
        return lax.psum(total, "data") / lax.psum(jnp.sum(labels != -100).astype(float), "data")

    primals = (jnp.asarray(HIDDEN),)
    tangents = (jnp.asarray(np.random.default_rng(1).standard_normal(HIDDEN.shape)),)

    def derivatives(f):
        return jax.jvp(f, primals, tangents), jax.jvp(jax.grad(f), primals, tangents)

    actual = jit(lambda: derivatives(lambda h: both(h, HEAD, LABELS)))()
    assert_equal(actual, jit(lambda: derivatives(lambda h: whole(h, HEAD)))())

    @partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=P("data"))
    def log_probs(hidden, head, labels):
        return linear_log_prob(hidden, head, labels, axis_name="model", **CHUNKED)

    wanted = jit(partial(linear_log_prob, implementation="reference"))(HIDDEN, HEAD, LABELS)
    assert_equal(jit(log_probs)(HIDDEN, HEAD, LABELS), wanted)


@pytest.mark.parametrize("target", ["labels", "probabilities"])
def test_losses_far_below_epsilon_are_right_to_a_few_roundings(target):
    hidden = np.array([[5.0], [20.0], [40.0], [80.0]], np.float32)
    head = np.array([[1.0], [0.0], [0.0], [0.0]], np.float32)
    others = 3 * np.exp(-hidden[:, 0].astype(np.float64))
    labels, probabilities = np.zeros(4, np.int32), np.eye(4, dtype=np.float32)[np.zeros(4, int)]
    target, spec = (labels, P()) if target == "labels" else (probabilities, P(None, "model"))

    def loss(hidden, head, target):
        chunked = {"implementation": "chunked", "chunk_size": 2, "axis_name": "model"}
        return linear_cross_entropy(hidden, head, target, reduction="none", **chunked)

    split = split_vocabulary(loss, (P(), P("model"), spec))
    losses, pull_back = jax.vjp(lambda h: split(h, head, target), hidden)
    (gradient,) = pull_back(jnp.ones_like(losses))
    np.testing.assert_allclose(losses, np.log1p(others), rtol=4 * 2**-23)
    np.testing.assert_allclose(gradient[:, 0], -others / (1 + others), rtol=8 * 2**-23)
