"""Any loss of logits, made one of hidden states and head, equals that loss of the whole logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxloss.fused
import torch_ref.fused
from jaxloss.fused import make_linear_loss
from parity_tests.compare import assert_same, assert_within
from parity_tests.fused.token_losses import (
    ADVANTAGES,
    CHUNKED,
    HEAD,
    INTEGERS,
    LOSSES,
    NUM_TOKENS,
    OPERANDS,
    POLICY,
    TEACHER,
    WHERE,
    called,
    derivatives,
    entropy,
    kl,
    log_prob,
    policy,
    problem,
    temporary_memory,
    whole,
)
from parity_tests.quick_compilation import jit
from parity_tests.tolerances import GRADIENT_EPS_OF_MAX


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_loss_of_whole_logits(name):
    fn, kept = LOSSES[name][0], np.flatnonzero(WHERE)
    rng = np.random.default_rng(1)
    cotangents = {"none": jnp.asarray(rng.standard_normal(NUM_TOKENS)), "mean": jnp.asarray(-1.7)}
    of_kept = cotangents | {"none": cotangents["none"][kept]}
    expected = jit(partial(derivatives, whole(fn)))(*problem(name, kept), of_kept)
    loss = jit(partial(derivatives, make_linear_loss(fn), where=WHERE, **CHUNKED))
    for hole in (jnp.inf, jnp.nan):
        actual = loss(*problem(name, hole=hole), cotangents)
        for (reduction, results), wanted in zip(actual.items(), expected.values(), strict=True):
            results, wanted = gathered(*results), gathered(*wanted)
            for operand, result in results.items():
                if result.shape[:1] == (NUM_TOKENS,):
                    assert not jnp.any(result[~WHERE]), operand
                    result = result[kept]
                assert_within(result, wanted[operand], GRADIENT_EPS_OF_MAX, what=f"{reduction} {operand}")


def gathered(value, gradients):
    """Value and gradients by name; scalars', sums that may cancel to next to nothing, in one array."""
    scalars = [a for _, a in sorted(gradients.items()) if a.ndim == 0]
    arrays = {k: a for k, a in gradients.items() if a.ndim > 0}
    return arrays | {"value": value, "scalars": jnp.stack(scalars)}


def test_statistics_of_any_dtype_have_the_tokens_shape():
    def loss(operands):
        return called(POLICY, INTEGERS | operands, where=WHERE, **CHUNKED)

    (_, found), _ = jit(jax.value_and_grad(loss, has_aux=True))(OPERANDS)
    _, expected = called(whole(policy), INTEGERS | OPERANDS, reduction="none")
    for name, statistic in expected.items():
        assert found[name].dtype == statistic.dtype
        assert_same(found[name][WHERE], statistic[WHERE])
        assert not jnp.any(found[name][~WHERE])


@pytest.mark.parametrize("name", ["unlikelihood", "policy gradient"])
def test_temporary_memory_is_below_a_tenth_of_the_logits(name):
    # The largest of them but Jensen-Shannon's, and one with statistics; compiled only.
    assert temporary_memory(name) < 0.1


def squared_error(logits, target, *, scale, axis_name=None):
    error = ((logits - target) ** 2).mean(-1)
    return scale * error, {"error": error, "is_large": error > 1.0}


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_equals_torchs(implementation):
    named = {k: HEAD[k] for k in ("linear_bias", "sample_weight")} | {"scale": 0.3, "logit_softcap": 2.0}
    how = {"implementation": implementation, "chunk_size": 4}
    for reduction in ("none", "mean", "sum", "parts"):
        results = []
        for package, asarray in ((jaxloss, jnp.asarray), (torch_ref, torch.asarray)):
            arrays = [asarray(a) for a in (HEAD["input"], HEAD["linear_weight"], TEACHER)]
            options = {k: asarray(a) if np.ndim(a) else a for k, a in (named | {"where": WHERE}).items()}
            loss = package.fused.make_linear_loss(squared_error, splits_classes=True)
            results.append(loss(*arrays, **options, reduction=reduction, **how))
        for a, b in zip(*map(jax.tree.leaves, results), strict=True):
            assert_within(a, b, GRADIENT_EPS_OF_MAX, what=reduction)


def test_denominator_and_parts():
    value = partial(called, POLICY, INTEGERS | OPERANDS, where=WHERE, **CHUNKED)
    numerator, count = value(reduction="parts")[0]
    assert_within(value(reduction="mean")[0], numerator / count, GRADIENT_EPS_OF_MAX)
    assert_within(value(reduction="mean", denominator=7)[0], numerator / 7, GRADIENT_EPS_OF_MAX)
    assert jnp.isnan(jax.jit(partial(value, reduction="mean"))(denominator=jnp.array(-7.0))[0])
    nobody = called(POLICY, INTEGERS | OPERANDS, where=jnp.zeros_like(WHERE), reduction="sum", **CHUNKED)[0]
    assert nobody == 0.0


@pytest.mark.parametrize("implementation", ["chunked", "reference"])
def test_without_a_token_every_gradient_is_zero(implementation):
    def fn(logits, own, *, table, factor):
        # Infinite slopes at the zeros that stand for a token.
        roots = jnp.sqrt(jnp.abs(logits * table[None])) + jnp.log(jnp.abs(factor * own))[:, None]
        return jnp.sum(roots / logits, 1), {"root": roots[:, 0]}

    names = ["input", "linear_weight", "linear_bias", "logit_scale", "logit_softcap", "sample_weight"]
    operands = {k: jnp.asarray(HEAD[k]) for k in names}
    operands |= {"array 0": jnp.asarray(ADVANTAGES), "table": jnp.arange(10.0), "factor": jnp.array(0.0)}

    def total(operands, where):
        how = {"reduction": "sum", "implementation": implementation, "chunk_size": 4}
        return called(make_linear_loss(fn), operands, where=where, **how)

    def both(operands, where):
        gradient = jax.grad(lambda o: total(o, where)[0])
        return total(operands, where), *jax.jvp(gradient, (operands,), (operands,))

    for leaf in jax.tree.leaves(jit(both)(operands, jnp.zeros_like(WHERE))):
        assert not jnp.any(leaf)


HIDDEN, WEIGHT = jnp.ones((6, 2)), jnp.ones((5, 2))


@pytest.mark.parametrize(
    ("fn", "arrays", "options", "message"),
    [
        (lambda z: jnp.sum(z), (), {}, r"<lambda> must return one .* for each token, \[6\]; got float64\[\]"),
        (lambda z: z, (), {}, r"for each token, \[6\]; got float64\[6, 5\]"),
        (lambda z: jnp.argmax(z, 1), (), {}, r"floating-point value .* got int64\[6\]"),
        (lambda z: [z[:, 0]], (), {}, r"or \(values, statistics\); got list"),
        (lambda z: (z[:, 0], {"a": z[0]}), (), {}, r"statistics of shape \[6, ...\]; got float64\[5\]"),
        (
            log_prob,
            (jnp.ones(5, int),),
            {},
            r"argument 3, labels, must have shape \[6, ...\].* got int64\[5\]",
        ),
        (log_prob, ([1] * 6,), {}, r"argument 3, labels, must be an array .* got list"),
        (kl, (HIDDEN[:3],), {}, r"argument 3, teacher, must have shape \[6, ...\]"),
        (entropy, (), {"reduction": "men"}, r"reduction must be one of .* Did you mean 'mean'"),
        (
            entropy,
            (),
            {"table": jnp.ones(6)},
            r"table must be a number or have shape \[5, ...\].* by position",
        ),
        (
            entropy,
            (),
            {"axis_name": "model"},
            r"axis_name must be None unless entropy is made with splits_classes",
        ),
        (entropy, (), {"denominator": 0}, r"denominator must be in \(0, inf\); got 0"),
        (entropy, (), {"denominator": np.nan}, r"denominator must be in \(0, inf\); got nan"),
        (
            entropy,
            (),
            {"denominator": 3, "reduction": "sum"},
            r"denominator must be None with reduction='sum'",
        ),
        (entropy, (), {"temperature": True}, r"temperature must be a number; got True"),
        (entropy, (), {"temperature": 1.0}, r"unexpected keyword argument 'temperature'"),
    ],
)
def test_bad_arguments_are_named(fn, arrays, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make_linear_loss(fn)(HIDDEN, WEIGHT, *arrays, **options)


def test_built_in_heads_are_not_traced_at_each_call(monkeypatch):
    loss = partial(jaxloss.fused.linear_cross_entropy, jnp.ones((4, 3)), jnp.ones((5, 3)), jnp.zeros(4, int))
    chunked = {"implementation": "chunked", "chunk_size": 2}
    expected = loss(**chunked)
    monkeypatch.setattr(jax, "make_jaxpr", None)
    assert loss(**chunked) == expected


def test_bad_functions_are_named():
    with pytest.raises(TypeError, match="fn must be a function of logits; got 'entropy'"):
        make_linear_loss("entropy")
    with pytest.raises(TypeError, match="splits_classes must be True or False; got 'model'"):
        make_linear_loss(entropy, splits_classes="model")
