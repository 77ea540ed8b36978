"""Follow a run of a model from layer to layer, on either side: see, move or replace what passes.

Both frameworks announce each call of a layer to a `Visit`, which may hand other arrays in or out.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing.inputs import is_array, is_floating

Key = tuple[str, int]
"""A layer's name, and how often it was called before; the model itself is `ROOT`."""

ROOT: Key = ("", 0)


class Visit:
    """Count the calls and pass everything on as it is."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._open: list[Key] = []

    def call(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a layer, announced."""
        args, kwargs = self.enter(name, (tuple(args), dict(kwargs)))
        return self.leave(function(*args, **kwargs))

    def enter(self, name: str, inputs: Any) -> Any:
        """A layer is called: with these inputs, or with what is returned."""
        key = (name, self._counts[name])
        self._counts[name] += 1
        self._open.append(key)
        return self.on_inputs(key, inputs)

    def leave(self, outputs: Any) -> Any:
        """The layer last entered returns."""
        key = self._open.pop()
        return self.on_outputs(key, outputs)

    def tap(self, name: str, x: Any) -> Any:
        """An array with a name: a layer that shows nothing but its output."""
        self.enter(name, ((), {}))
        return self.leave(x)

    def on_inputs(self, key: Key, inputs: Any) -> Any:
        """What the layer gets."""
        return inputs

    def on_outputs(self, key: Key, outputs: Any) -> Any:
        """What its caller gets."""
        return outputs


@dataclass
class Call:
    """One call of a layer: what went in and came out, and the layer around it.

    Args:
        key: of the call.
        parent: the layer around it.
        inputs: as they were handed in.
        given: the first array of them.
        output: the first array that it returned.
        other_inputs: further floating-point arrays by their place.
        other_outputs: the same of what it returned.
    """

    key: Key
    parent: Key | None
    inputs: Any
    given: Any
    output: Any = None
    other_inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    other_outputs: Mapping[str, np.ndarray] = field(default_factory=dict)


class Record(Visit):
    """Write down every call, in the order in which they begin.

    What runs inside `vmap`, `scan` or `checkpoint` has no values to see: `unseen` has the names.
    `keys` are those of the dict that the model returns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Key, Call] = {}
        self.unseen: dict[str, None] = {}
        self.keys: list[Any] = []

    def on_inputs(self, key: Key, inputs: Any) -> Any:
        parent = self._open[-2] if len(self._open) > 1 else None
        given = first_array(inputs)
        if isinstance(given, jax.core.Tracer):
            self.unseen[key[0]] = None
        else:
            self.calls[key] = Call(key, parent, inputs, _copied(given), other_inputs=others(inputs))
        return inputs

    def on_outputs(self, key: Key, outputs: Any) -> Any:
        output = first_array(outputs)
        if isinstance(output, jax.core.Tracer) or output is None:
            self.calls.pop(key, None)
            self.unseen[key[0]] = None
        elif key in self.calls:
            self.calls[key].output = _copied(output)
            self.calls[key].other_outputs = others(outputs)
        if key == ROOT and isinstance(outputs, Mapping):
            self.keys = [name for name, x in outputs.items() if first_array(x) is not None]
        return outputs


class Shift(Visit):
    """Pass each named output through a function of it, such as adding a zero to differentiate by."""

    def __init__(self, change: Mapping[Key, Callable[[Any], Any]]) -> None:
        super().__init__()
        self._change = change

    def on_outputs(self, key: Key, outputs: Any) -> Any:
        return replace_first(outputs, self._change[key]) if key in self._change else outputs


class Force(Visit):
    """Hand each named layer a given input and its caller a given output, and keep what they had instead.

    So each layer shows the error that it makes itself: what comes before it is right, and so is what the
    layers inside it return.
    """

    def __init__(self, inputs: Mapping[Key, Any], outputs: Mapping[Key, Any]) -> None:
        super().__init__()
        self._inputs, self._outputs = inputs, outputs
        self.given: dict[Key, Any] = {}
        self.returned: dict[Key, Any] = {}
        self.order: list[tuple[str, Key]] = []

    def on_inputs(self, key: Key, inputs: Any) -> Any:
        if key not in self._inputs:
            return inputs
        self.given[key] = _kept(first_array(inputs))
        self.order.append(("input", key))
        return replace_first(inputs, lambda x: _like(self._inputs[key], x))

    def on_outputs(self, key: Key, outputs: Any) -> Any:
        if key not in self._outputs:
            return outputs
        self.returned[key] = _kept(first_array(outputs))
        self.order.append(("output", key))
        return replace_first(outputs, lambda x: _like(self._outputs[key], x))


def first_array(tree: Any) -> Any:
    """The first floating-point array in a tree, or the first array where none is; None without any."""
    found: list[Any] = []
    map_arrays(lambda x: found.append(x), tree)
    return next((x for x in found if is_floating(x)), found[0] if found else None)


def replace_first(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with its first array, as `first_array` has it, changed wherever it is."""
    first = first_array(tree)
    if first is None:
        return tree
    changed = change(first)
    return map_arrays(lambda x: changed if x is first else x, tree)


def in_order(outputs: Any, keys: Sequence[Any]) -> Any:
    """A model's dict with these keys first."""
    return {**{key: outputs[key] for key in keys}, **outputs} if keys else outputs


def map_arrays(function: Callable[[Any], Any], tree: Any) -> Any:
    """The containers of either framework, those that are no trees to JAX too; other objects stay."""
    if is_array(tree):
        return function(tree)
    if isinstance(tree, (tuple, list)):
        items = [map_arrays(function, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, dict):
        changed = copy.copy(tree)
        for name, item in tree.items():
            changed[name] = map_arrays(function, item)
        return changed
    return tree


def others(tree: Any) -> dict[str, np.ndarray]:
    """Floating-point arrays besides the first by their place in a tree, each array once."""
    found: dict[str, Any] = {}

    def walk(tree: Any, place: str) -> None:
        if is_floating(tree) and not any(x is tree for x in [first, *found.values()]):
            found[place] = tree
        items = enumerate(tree) if isinstance(tree, (tuple, list)) else ()
        for name, item in tree.items() if isinstance(tree, Mapping) else items:
            walk(item, f"{place}[{name!r}]")

    first = first_array(tree)
    walk(tree, "")
    return {place: np.array(to_numpy(x)) for place, x in found.items() if not isinstance(x, jax.core.Tracer)}


def _copied(array: Any) -> np.ndarray | None:
    return None if array is None else np.array(to_numpy(array))


def _kept(array: Any) -> Any:
    """Another array of the same numbers: torch may write into the first."""
    return array * 1 if is_floating(array) else array


def _like(array: Any, x: Any) -> Any:
    """In the integer dtype that the layer was given: its own may be narrower."""
    return _kept(array) if is_floating(x) else array
