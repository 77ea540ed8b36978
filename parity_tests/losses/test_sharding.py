"""Every loss on two devices, each axis of its arrays split: the value and gradient of one device.

By `jit` on a mesh with explicit axes, which `jax.make_mesh` makes, and on one along which JAX splits as it
likes; and by `shard_map`, summed over the devices.
"""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss
from parity_tests.cases import CASES
from parity_tests.compare import assert_within
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX, VALUE_EPS_OF_MAX

SAMPLES = [
    pytest.param(name, sample, id=f"{name} {sample.case}".strip())
    for name, samples in CASES.items()
    for sample in samples
]
# What is no sum over rows: of groups, of one series, of terms that are means, of pairs of rows.
NO_SUM = (
    "correlation_loss",
    "group_gap_penalty",
    "make_hybrid_loss",
    "make_linear_preference_loss",
    "make_uncertainty_weighted_loss",
)


def _summed(name, sample):
    """The loss, reduced by "sum" where it can be, as a function of its arrays; and those arrays."""
    leaves, tree = jax.tree.flatten(["sum" if isinstance(a, str) else a for a in sample.arguments()])
    loss = sample.loss(name, jaxloss)
    takes = [inspect.signature(function).parameters for function in (getattr(jaxloss, name), loss)]
    is_reduced = any("reduction" in parameters for parameters in takes)
    if is_reduced and name not in NO_SUM and "sum" not in leaves:
        loss = partial(loss, reduction="sum")

    def of_arrays(*arrays):
        given = iter(arrays)
        filled = [next(given) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
        return jnp.sum(loss(*jax.tree.unflatten(tree, filled)))

    return of_arrays, [leaf for leaf in leaves if isinstance(leaf, jax.Array)]


def _lying(arrays, **sizes):
    """How arrays lie whose axes of these sizes are split over the mesh axes so named."""
    over = {size: name for name, size in sizes.items()}
    return tuple(P(*map(over.get, array.shape)) for array in arrays)


def _placed(arrays, mesh, specs):
    return [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(arrays, specs, strict=True)]


def _even_sizes(arrays):
    return sorted({size for array in arrays for size in array.shape if size % 2 == 0})


@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_value_and_gradient_are_those_of_one_device(name, sample, kind):
    loss, arrays = _summed(name, sample)
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType[kind],) * 2)
    rows = arrays[0].shape[1 if name == "ctc_loss" else 0]
    assert rows % 2 == 0, "in parity_tests/cases.py, give the sample an even number of rows"
    others = [size for size in _even_sizes(arrays) if size != rows]
    layouts = [_lying(arrays, a=rows, b=others[0] if others else None)]
    layouts += [_lying(arrays, a=size) for size in others[1:]]

    @jit
    def values_and_gradients(whole, *split):
        results = [jax.value_and_grad(loss)(*arrays) for arrays in (whole, *split)]
        if kind == "Explicit" and name not in NO_SUM:
            specs = _lying(arrays, a=rows)
            total = jax.shard_map(lambda *local: lax.psum(loss(*local), "a"), in_specs=specs, out_specs=P())
            results.append(jax.value_and_grad(total)(*jax.sharding.reshard(whole, list(specs))))
        return results

    with jax.set_mesh(mesh):
        whole, *results = values_and_gradients(
            _placed(arrays, mesh, _lying(arrays)), *(_placed(arrays, mesh, specs) for specs in layouts)
        )
    for result in results:
        assert_within(result[0], whole[0], VALUE_EPS_OF_MAX)
        assert_within(result[1], whole[1], GRADIENT_EPS_OF_MAX)


@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_arrays_may_lie_differently(name, sample):
    """On explicit axes, which JAX checks when it traces: an axis of one array split, that of others whole."""
    loss, arrays = _summed(name, sample)
    mesh = jax.make_mesh((2,), ("a",))
    with jax.set_mesh(mesh):
        for size in _even_sizes(arrays):
            split, whole = _lying(arrays, a=size), _lying(arrays)
            for specs in {split, (split[0], *whole[1:]), (whole[0], *split[1:])}:
                jax.eval_shape(jax.value_and_grad(loss), *_placed(arrays, mesh, specs))


@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_arrays_on_no_mesh_may_stand_beside_those_on_one(name, sample):
    """As numpy's arrays and those made before the mesh do, outside any `set_mesh`."""
    loss, arrays = _summed(name, sample)
    first, *others = _placed(arrays, jax.make_mesh((2,), ("a",)), _lying(arrays, a=_even_sizes(arrays)[0]))
    jax.eval_shape(lambda first: loss(first, *arrays[1:]), first)
    if others:
        jax.eval_shape(lambda *others: loss(arrays[0], *others), *others)


@pytest.mark.parametrize("name", ["cross_entropy", "jensen_shannon_div", "multi_margin_loss", "mse_loss"])
def test_eager_calls_mix_arrays_on_a_mesh_with_others(name):
    loss, arrays = _summed(name, CASES[name][0])
    placed = _placed(arrays, jax.make_mesh((2,), ("a",)), _lying(arrays, a=arrays[0].shape[0]))
    expected = loss(*arrays)
    for mixed in (placed, [placed[0], *arrays[1:]], [arrays[0], *placed[1:]]):
        assert_within(loss(*mixed), expected, VALUE_EPS_OF_MAX)
