"""A function as it is traced now, by which compiled programs can be kept.

What a function closes over may change between calls, and a program kept by the function would hold what the
first call found. So each call traces it anew: the arrays that it closes over become operands, and all else is
the key.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr

from jaxloss import _checks


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


def traced(fn: Callable, operands: Any, *arrays, **options) -> tuple[Program, list]:
    """The function as a program for arrays of these shapes, and the arrays that it closes over.

    `operands`, a pytree of the arrays that the program will be run on, say how often it is differentiated:
    derivative rules count in what is.
    """
    # JAX keeps traces by the function: another one each time.
    closed, shapes = jax.make_jaxpr(lambda *a, **o: fn(*a, **o), return_shape=True)(*arrays, **options)
    rules: list = []
    key = _key_of(closed.jaxpr, rules)
    order = max(map(_order, jax.tree.leaves((operands, closed.consts))), default=0)
    if rules and order:
        key += _key_of_gradient(closed.jaxpr, order)
    return Program(key, jax.tree.structure(shapes), closed.jaxpr), list(closed.consts)


def _order(array) -> float:
    """How many derivatives are being taken with respect to the array; infinity where it is not known."""
    if not isinstance(array, jax.core.Tracer):
        return 0
    # By their names: the classes are not public.
    kind = type(array).__name__
    if kind == "BatchTracer":
        return _order(array.val)
    return 1 + _order(array.primal) if kind in ("JVPTracer", "LinearizeTracer") else math.inf


def _key_of_gradient(jaxpr: Jaxpr, order: float) -> tuple:
    """The key of value and gradient, in which derivative rules are written out, and count as they are.

    The gradient is that to all that is floating, what is closed over too.
    """
    operands: list[Any] = [v.aval for v in (*jaxpr.constvars, *jaxpr.invars)]
    is_real = [jnp.issubdtype(a.dtype, jnp.floating) for a in operands]

    def gradient(operands, cotangents):
        def run(*real):
            rest = iter(real)
            values = [next(rest) if r else a for r, a in zip(is_real, operands, strict=True)]
            count = len(jaxpr.constvars)
            values = jax.core.eval_jaxpr(jaxpr, values[:count], *values[count:])
            return [a for a in values if jnp.issubdtype(a.dtype, jnp.floating)]

        real = [a for r, a in zip(is_real, operands, strict=True) if r]
        return jax.vjp(run, *real)[1](cotangents)

    results: list[Any] = [v.aval for v in jaxpr.outvars]
    cotangents = [a for a in results if jnp.issubdtype(a.dtype, jnp.floating)]
    try:
        closed = jax.make_jaxpr(gradient)(operands, cotangents)
    except Exception:
        # A rule is the user's, and may raise anything. Without a gradient: a program of its own each time.
        return (object(),)
    # Values that no gradient needs would bring their rules along.
    needed, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals), instantiate=True)
    rules: list = []
    key = _key_of(needed, rules), *map(_content, closed.consts)
    # The rules' own rules are not written out: where they may be wanted, too, a program each time.
    return (*key, object()) if rules and order > 1 else key


def _content(constant) -> Any:
    """What a program holds as a constant."""
    if isinstance(constant, jax.core.Tracer):
        raise ValueError(
            f"a derivative rule of the loss closes over the traced array {_checks.describe(constant)}; pass "
            f"it to the loss by a name of its own, and to the rule as an operand."
        )
    if isinstance(constant, jax.Array) and jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    try:
        return jnp.shape(constant), np.asarray(constant).tobytes()
    except Exception:
        # Of other processes, or no array.
        return object()


def _key_of(jaxpr: Jaxpr, rules: list) -> tuple:
    """All that a program does, for as long as it is alive, but for derivative rules, which are collected."""
    numbers: dict = {}

    def of_atom(atom):
        if isinstance(atom, Literal):
            return atom.aval, np.asarray(atom.val).tobytes()
        return atom.aval, numbers.setdefault(atom, len(numbers))

    def of_param(name, param):
        if isinstance(param, ClosedJaxpr):
            return _key_of(param.jaxpr, rules), tuple(map(_content, param.consts))
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
