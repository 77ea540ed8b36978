"""The runs that a comparison consists of: each model on its own, and each with its layers forced."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.interop import pull_back, to_numpy
from jaxloss.testing._jax import settings as jax_settings
from jaxloss.testing.inputs import is_floating
from jaxloss.testing.layers._jax_model import JaxModel
from jaxloss.testing.layers._match import Match
from jaxloss.testing.layers._torch_model import TorchModel
from jaxloss.testing.layers._visits import ROOT, Force, Key, Shift, first_array

Event = tuple[str, Key]
"""The "input" or "output" of a call, under JAX's key."""

Arrays = dict[Event, np.ndarray]


@dataclass(frozen=True)
class Forced:
    """What each layer had by itself, in JAX's layout.

    Args:
        values: the inputs that the code around a layer made for it, and the outputs that it made.
        gradients: of the inputs and outputs that were put in their place.
        order: of the events.
    """

    values: Arrays
    gradients: Arrays
    order: list[Event]


def forced_values(matches: list[Match]) -> Arrays:
    """Torch's own inputs and outputs in JAX's layout: what both sides are forced to."""
    found: Arrays = {}
    for match in matches:
        if match.inputs is not None and match.ours.key != ROOT:
            found["input", match.ours.key] = match.torch_input
        if match.outputs is not None:
            found["output", match.ours.key] = match.torch_output
    return found


def run_jax_forced(
    model: JaxModel, inputs: Any, forced: Arrays, cotangents: Mapping[Event, Any] | None
) -> Forced:
    """JAX's side with every layer forced; None for cotangents leaves the gradients out."""
    moving = {event: x for event, x in forced.items() if is_floating(x)}
    fixed = {event: x for event, x in forced.items() if event not in moving}
    order: list[Event] = []

    def run(moving: list[Any]) -> Any:
        given = {**fixed, **dict(zip(events, moving, strict=True))}
        visit = Force(_of("input", given), _of("output", given))
        model.run(visit, inputs)
        order[:] = visit.order
        values = _events(visit)
        floating = [values[e] for e in visit.order if is_floating(values[e])]
        return floating, [values[e] for e in visit.order if not is_floating(values[e])]

    events = list(moving)
    with jax_settings(model.dtype), jax.disable_jit():
        arrays = [jnp.asarray(moving[e]) for e in events]
        vjp = None
        if cotangents is None:
            values, exact = run(arrays)
        else:
            values, vjp, exact = jax.vjp(run, arrays, has_aux=True)
        is_exact = [not is_floating(forced[e]) for e in order]
        rest = [iter(values), iter(exact)]
        named = {e: next(rest[is_whole]) for e, is_whole in zip(order, is_exact, strict=True)}
        gradients: Arrays = {}
        if vjp is not None and cotangents is not None:
            incoming = [jnp.asarray(cotangents[e], x.dtype) for e, x in named.items() if is_floating(x)]
            gradients = {e: to_numpy(x) for e, x in zip(events, vjp(incoming)[0], strict=True)}
    return Forced({e: to_numpy(x) for e, x in named.items()}, gradients, order)


def run_torch_forced(
    model: TorchModel,
    inputs: Any,
    matches: list[Match],
    forced: Arrays,
    cotangents: Mapping[Event, Any] | None,
) -> Forced:
    """Torch's side with every layer forced; what comes back is in JAX's layout."""
    import torch

    back = {m.theirs.key: m for m in matches}
    theirs = {(kind, m.theirs.key): m for m in matches for kind in ("input", "output")}
    leaves = {}
    for (kind, key), match in theirs.items():
        if (kind, match.ours.key) in forced:
            layout = match.inputs if kind == "input" else match.outputs
            value = to_torch_layout(layout, forced[kind, match.ours.key])
            leaves[kind, key] = model.tensors(value)
    moving = {e: x for e, x in leaves.items() if x.is_floating_point()}
    for x in moving.values():
        x.requires_grad_(cotangents is not None)
    visit = Force(_of("input", leaves), _of("output", leaves))
    model.run(visit, inputs, gradients=cotangents is not None)
    values = _events(visit)

    def in_jax(arrays: Mapping[Event, Any]) -> Arrays:
        found = {}
        for (kind, key), x in arrays.items():
            match = back[key]
            layout = match.inputs if kind == "input" else match.outputs
            assert layout is not None
            found[kind, match.ours.key] = layout.to_jax(to_numpy(x))
        return found

    gradients: Arrays = {}
    if cotangents is not None:
        floating = {e: x for e, x in values.items() if x.is_floating_point()}
        incoming = [
            to_torch_layout(
                back[key].inputs if kind == "input" else back[key].outputs,
                cotangents[kind, back[key].ours.key],
            )
            for kind, key in floating
        ]
        with torch.inference_mode(False):
            found = pull_back([*floating.values()], [*moving.values()], incoming)
        gradients = in_jax(dict(zip(moving, found, strict=True)))
    return Forced(in_jax(values), gradients, [])


def to_torch_layout(layout: Any, array: np.ndarray) -> np.ndarray:
    """JAX's array as torch lays it out."""
    array = array if layout.axes is None else np.transpose(array, np.argsort(layout.axes))
    return array[None] if layout.is_squeezed else array


def free_gradients(
    ours: JaxModel, theirs: TorchModel, jax_inputs: Any, matches: list[Match], cotangent: np.ndarray
) -> tuple[Arrays, Arrays]:
    """Gradients of the models' own output in that of each layer: JAX's and torch's, in JAX's layout."""
    moving = [
        m for m in matches if m.outputs is not None and m.ours.key != ROOT and is_floating(m.ours.output)
    ]
    root = next(m for m in matches if m.ours.key == ROOT)

    def shifted(zeros: list[Any]) -> Any:
        adds = {m.ours.key: (lambda x, z=z: x + z) for m, z in zip(moving, zeros, strict=True)}
        return first_array(ours.run(Shift(adds), jax_inputs))

    with jax_settings(ours.dtype), jax.disable_jit():
        output, vjp = jax.vjp(shifted, [jnp.zeros(m.ours.output.shape, m.ours.output.dtype) for m in moving])
        found = vjp(jnp.asarray(cotangent, output.dtype))[0]
    of_jax = {("output", m.ours.key): to_numpy(g) for m, g in zip(moving, found, strict=True)}

    zeros = [_zeros(theirs, m) for m in moving]
    adds = {m.theirs.key: (lambda x, z=z: x + z) for m, z in zip(moving, zeros, strict=True)}
    output = first_array(theirs.run(Shift(adds), jax_inputs, gradients=True))
    incoming = [to_torch_layout(root.outputs, cotangent)]
    gradients = pull_back([output], zeros, incoming)
    of_torch = {}
    for m, gradient in zip(moving, gradients, strict=True):
        assert m.outputs is not None
        of_torch["output", m.ours.key] = m.outputs.to_jax(to_numpy(gradient))
    return of_jax, of_torch


def _zeros(model: TorchModel, match: Match) -> Any:
    """Zeros to be added to a layer's output in torch, to differentiate by."""
    zeros = model.tensors(np.zeros_like(match.theirs.output))
    return zeros.requires_grad_()


def _of(kind: str, arrays: Mapping[Event, Any]) -> dict[Key, Any]:
    return {key: x for (of, key), x in arrays.items() if of == kind}


def _events(visit: Force) -> dict[Event, Any]:
    return {
        (kind, key): (visit.given if kind == "input" else visit.returned)[key] for kind, key in visit.order
    }
