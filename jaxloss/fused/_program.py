"""A function as it is traced now, by which compiled programs can be kept.

What a function closes over may change between calls, and a program kept by the function would hold what the
first call found. So each call traces it anew: the arrays that it closes over become operands, and all else is
the key.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


@dataclass(frozen=True)
class Program:
    """A traced function: equal to another that does the same with the arrays that it closes over.

    Attributes:
        key: what it does.
        tree: the structure of its results.
        jaxpr: what to run; its constants are the arrays that it closes over.
    """

    key: tuple
    tree: Any
    jaxpr: Any = field(compare=False)

    def __call__(self, closed_over: list, *arrays, **options):
        """The function's results, given the values of what it closes over."""
        results = jax.core.eval_jaxpr(self.jaxpr, closed_over, *jax.tree.leaves((arrays, options)))
        return jax.tree.unflatten(self.tree, results)


def traced(fn: Callable, *arrays, **options) -> tuple[Program, list]:
    """The function as a program for arrays of these shapes, and the arrays that it closes over."""
    # JAX keeps traces by the function: another one each time.
    closed, shapes = jax.make_jaxpr(lambda *a, **o: fn(*a, **o), return_shape=True)(*arrays, **options)
    rules: list = []
    key = _key_of(closed.jaxpr, rules)
    if rules:
        key += _key_of_gradient(closed, jax.tree.leaves((arrays, options)))
    return Program(key, jax.tree.structure(shapes), closed.jaxpr), list(closed.consts)


def _key_of_gradient(closed: ClosedJaxpr, operands: list) -> tuple:
    """The key of value and gradient, in which derivative rules are written out, and count as they are."""
    is_real = [jnp.issubdtype(a.dtype, jnp.floating) for a in operands]

    def gradient(operands, cotangents):
        def results(*real):
            rest = iter(real)
            values = [next(rest) if r else a for r, a in zip(is_real, operands, strict=True)]
            values = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *values)
            return [a for a in values if jnp.issubdtype(a.dtype, jnp.floating)]

        real = [a for r, a in zip(is_real, operands, strict=True) if r]
        return jax.vjp(results, *real)[1](cotangents)

    cotangents = [a for a in closed.out_avals if jnp.issubdtype(a.dtype, jnp.floating)]
    try:
        return _key_of(jax.make_jaxpr(gradient)(operands, cotangents).jaxpr, [])
    except (TypeError, ValueError, NotImplementedError):
        # Without a gradient: a program of its own each time.
        return (object(),)


def _key_of(jaxpr: Jaxpr, rules: list) -> tuple:
    """All that a program does, for as long as it is alive, but for derivative rules, which are collected."""
    numbers: dict = {}

    def of_atom(atom):
        if isinstance(atom, Literal):
            return atom.aval, np.asarray(atom.val).tobytes()
        return atom.aval, numbers.setdefault(atom, len(numbers))

    def of_param(name, param):
        if isinstance(param, ClosedJaxpr):
            return _key_of(param.jaxpr, rules), tuple(map(id, param.consts))
        if isinstance(param, Jaxpr):
            return _key_of(param, rules)
        if isinstance(param, (tuple, list)):
            return tuple(of_param(name, one) for one in param)
        if name in _RULES:
            rules.append(param)
            return None
        try:
            hash(param)
        except TypeError:
            return id(param)
        return type(param), param

    ends = (*map(of_atom, (*jaxpr.constvars, *jaxpr.invars)),)
    eqns = [
        (
            eqn.primitive,
            *map(of_atom, (*eqn.invars, *eqn.outvars)),
            *(of_param(*param) for param in sorted(eqn.params.items())),
        )
        for eqn in jaxpr.eqns
    ]
    return ends, *eqns, tuple(map(of_atom, jaxpr.outvars))


# Of `jax.custom_jvp` and `jax.custom_vjp`: functions that are others at each trace.
_RULES = {"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "out_trees"}
