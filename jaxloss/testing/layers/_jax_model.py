"""Run a JAX model of any kind with a visit that follows along: Linen, NNX, Equinox, or a function with taps.

Neither Flax nor Equinox is imported here unless the model is one of theirs.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing._jax import fitting, settings
from jaxloss.testing.inputs import cast, is_array, is_floating
from jaxloss.testing.layers._visits import Visit, in_order

_active: list[Visit] = []


def tap(name: str, x: jax.Array) -> jax.Array:
    """Name an array inside a JAX function, so that `compare_layers` can tell it from the others.

    Args:
        name: the torch layer whose output it should be, such as "h.0.attn".
        x: returned as it is.

    >>> import jax.numpy as jnp
    >>> float(tap("ln_f", jnp.float32(2.0)))
    2.0
    """
    return _active[-1].tap(name, x) if _active else x


@dataclass(frozen=True)
class JaxModel:
    """A JAX model, computing in one dtype.

    Args:
        name: for messages.
        dtype: of its parameters and inputs.
        function: of the inputs; calls the model with its layers announced to a visit.
        arrays: its parameters as a tree of dicts under the layers' names.
        keys: of the dict that it returns, which to put first.
    """

    name: str
    dtype: str
    function: Callable[..., Any]
    arrays: Any
    keys: tuple[Any, ...] = ()

    def run(self, visit: Visit, inputs: tuple[Any, ...]) -> Any:
        """Call the model, operation by operation: what is compiled shows no layers."""
        with settings(self.dtype), jax.disable_jit():
            given = jax.tree.map(lambda x: jnp.asarray(fitting(x)) if is_array(x) else x, inputs)
            _active.append(visit)
            try:
                given, kwargs = visit.enter("", (given, {}))
                return visit.leave(in_order(self.function(visit, *given, **kwargs), self.keys))
            finally:
                _active.pop()

    def dtypes(self, inputs: tuple[Any, ...]) -> set[str]:
        """Of the floating-point numbers that it computes on the way."""

        def of(jaxpr: Any) -> Iterator[Any]:
            for equation in jaxpr.eqns:
                yield from (getattr(v.aval, "dtype", None) for v in equation.outvars)
                for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
                    if _is_jaxpr(inner):
                        yield from of(getattr(inner, "jaxpr", inner))

        with settings(self.dtype):
            given = jax.tree.map(lambda x: jnp.asarray(fitting(x)) if is_array(x) else x, inputs)
            traced = jax.make_jaxpr(lambda: jax.tree.leaves(self.function(Visit(), *given)))()
        found = {dtype for dtype in of(traced.jaxpr) if dtype is not None}
        return {str(dtype) for dtype in found if jnp.issubdtype(dtype, jnp.floating)}

    def parameters(self, name: str) -> dict[str, np.ndarray]:
        """A layer's parameters, with those of the layers inside it, by their paths."""
        tree = self.arrays
        for part in name.split("/") if name else ():
            tree = tree.get(part, {}) if isinstance(tree, Mapping) else {}
        paths = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(p, simple=True, separator="/"): to_numpy(x) for p, x in paths}


def make_jax_model(model: Any, params: Any, dtype: str, kwargs: Mapping[str, Any]) -> JaxModel:
    """Tell which kind of model it is, and take a copy of it in the dtype.

    Raises:
        TypeError: it is no model, or `params` is missing or given where it must not be.
    """
    if _is_of("flax.linen", "Module", model):
        return _linen(model, params, dtype, kwargs)
    if _is_of("flax.nnx", "Module", model):
        return _nnx(model, params, dtype, kwargs)
    if _is_of("equinox", "Module", model):
        return _equinox(model, params, dtype, kwargs)
    if not callable(model):
        raise TypeError(
            "jax_model must be a Flax or Equinox module, or a function with tap() in it; "
            f"got {type(model).__name__}"
        )
    leading = () if params is None else (cast(_arrays(params), dtype),)

    def function(visit: Visit, *inputs: Any) -> Any:
        return model(*leading, *inputs, **kwargs)

    return JaxModel(getattr(model, "__name__", type(model).__name__), dtype, function, {})


def _linen(model: Any, params: Any, dtype: str, kwargs: Mapping[str, Any]) -> JaxModel:
    import flax.linen as nn

    if not isinstance(params, Mapping):
        raise TypeError(f"params must be given with a Linen module, as a dict; got {type(params).__name__}")
    variables = params if "params" in params else {"params": params}
    with settings(dtype):
        variables = jax.tree.map(jnp.asarray, cast(_arrays(variables), dtype))

    def function(visit: Visit, *inputs: Any) -> Any:
        running: set[str] = set()

        def announce(method: Any, args: Any, options: Any, context: Any) -> Any:
            name = "/".join(context.module.path)
            # A layer's other methods belong to the one that calls them.
            if not name or context.method_name == "setup" or name in running:
                return method(*args, **options)
            running.add(name)
            try:
                called = name if context.method_name == "__call__" else f"{name}.{context.method_name}"
                return visit.call(called, method, args, options)
            finally:
                running.discard(name)

        with nn.intercept_methods(announce):
            return model.apply(variables, *inputs, **kwargs)

    return JaxModel(type(model).__name__, dtype, function, variables["params"])


def _nnx(model: Any, params: Any, dtype: str, kwargs: Mapping[str, Any]) -> JaxModel:
    from flax import nnx

    graphdef, state = nnx.split(model)
    if params is not None:
        state = nnx.merge_state(state, params)
    with settings(dtype):
        state = jax.tree.map(lambda x: jnp.asarray(x, dtype) if is_floating(x) else x, state)

    def function(visit: Visit, *inputs: Any) -> Any:
        # Of the state itself, `merge` would write into the variables: random streams, running averages.
        copy = nnx.merge(graphdef, jax.tree.map(lambda x: x, state))
        layers = {
            "/".join(map(str, path)): node
            for path, node in nnx.iter_graph(copy)
            if isinstance(node, nnx.Module) and path
        }
        with _announced(layers, visit):
            return copy(*inputs, **kwargs)

    arrays = nnx.to_pure_dict(nnx.filter_state(state, nnx.Param))
    return JaxModel(type(model).__name__, dtype, function, _with_text_keys(arrays))


def _equinox(model: Any, params: Any, dtype: str, kwargs: Mapping[str, Any]) -> JaxModel:
    import equinox as eqx

    if params is not None:
        raise TypeError("params must be None with an Equinox module, which holds its own")
    with settings(dtype):
        copy = jax.tree.map(lambda x: jnp.asarray(x, dtype) if is_floating(x) else x, model)
    layers: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(copy)[0]:
        names = [_entry(entry) for entry in path]
        node, place = copy, arrays
        for i, entry in enumerate(path[:-1]):
            node = _child(node, entry)
            place = place.setdefault(names[i], {})
            if isinstance(node, eqx.Module):
                layers["/".join(names[: i + 1])] = node
        if is_floating(leaf):
            place[names[-1]] = leaf

    def function(visit: Visit, *inputs: Any) -> Any:
        with _announced(layers, visit):
            return copy(*inputs, **kwargs)

    return JaxModel(type(model).__name__, dtype, function, arrays)


@contextlib.contextmanager
def _announced(layers: dict[str, Any], visit: Visit) -> Iterator[None]:
    """Announce the calls of these objects: for a while, their classes' `__call__` tells the visit."""
    names = {id(layer): name for name, layer in layers.items()}
    owners = {
        next((c for c in type(layer).__mro__ if "__call__" in c.__dict__), None) for layer in layers.values()
    } - {None}
    running: set[int] = set()

    def announcing(original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            method = original.__get__(self, type(self))
            if id(self) not in names or id(self) in running:
                return method(*args, **kwargs)
            running.add(id(self))
            try:
                return visit.call(names[id(self)], method, args, kwargs)
            finally:
                running.discard(id(self))

        return call

    originals = {owner: owner.__dict__["__call__"] for owner in owners if owner is not None}
    try:
        for owner, original in originals.items():
            type.__setattr__(owner, "__call__", announcing(original))
        yield
    finally:
        for owner, original in originals.items():
            type.__setattr__(owner, "__call__", original)


def _is_of(module: str, name: str, model: Any) -> bool:
    """Whether a model is of a library's class; where there is such a model, the library is imported."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(model, cls)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _arrays(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.array(to_numpy(x)) if is_array(x) else x, tree)


def _with_text_keys(tree: Any) -> Any:
    return {str(k): _with_text_keys(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _entry(entry: Any) -> str:
    return str(next(getattr(entry, a) for a in ("name", "idx", "key") if hasattr(entry, a)))


def _child(node: Any, entry: Any) -> Any:
    return getattr(node, entry.name) if hasattr(entry, "name") else node[_index(entry)]


def _index(entry: Any) -> Any:
    return entry.idx if hasattr(entry, "idx") else entry.key
