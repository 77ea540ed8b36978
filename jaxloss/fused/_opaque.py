"""A call that JAX's partial evaluation does not look into.

`jax.grad` partially evaluates a derivative rule. In a loop that needs no splitting at all, it still moves
what does not change between iterations out of the loop: masks and constants of the size of the logits
become arrays in memory, several for each. As one primitive, the loop runs as it was written.

Its own derivative inlines it: a second derivative is that of the loop in the open, which partial evaluation
does look into, and which keeps its memory small by `jax.checkpoint`.
"""

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

_call_p = Primitive("opaque_call")
_call_p.multiple_results = True


def opaque_call(fun, *args):
    """`fun(*args)`, with every JAX transform; `args` and the result are pytrees of arrays."""
    leaves, tree = jax.tree.flatten(args)
    trace = jax.make_jaxpr(lambda *leaves: fun(*jax.tree.unflatten(tree, leaves)), return_shape=True)
    jaxpr, shapes = trace(*leaves)
    return jax.tree.unflatten(jax.tree.structure(shapes), _call_p.bind(*leaves, jaxpr=jaxpr))


def _run(*leaves, jaxpr):
    return jaxpr_as_fun(jaxpr)(*leaves)


def _jvp(primals, tangents, *, jaxpr):
    moving = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

    def run(*some):
        leaves = list(primals)
        for i, leaf in zip(moving, some, strict=True):
            leaves[i] = leaf
        return _run(*leaves, jaxpr=jaxpr)

    return jax.jvp(run, [primals[i] for i in moving], [tangents[i] for i in moving])


def _batch(leaves, axes, *, jaxpr):
    run = jax.vmap(lambda *leaves: _run(*leaves, jaxpr=jaxpr), tuple(axes))
    results = opaque_call(run, *leaves)
    return results, [0] * len(results)


_call_p.def_impl(_run)
_call_p.def_abstract_eval(lambda *_, jaxpr: jaxpr.out_avals)
ad.primitive_jvps[_call_p] = _jvp
batching.primitive_batchers[_call_p] = _batch
mlir.register_lowering(_call_p, mlir.lower_fun(_run, multiple_results=True))
