"""Name the likely cause of a layer's own error, by the diagnosis that functions have.

The layer alone is the torch function: its recorded input goes in, the layers inside it are forced, and what
it makes comes out. A cause is named if undoing it makes all of that agree.
"""

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxloss.interop import to_numpy
from jaxloss.testing._problem import Evidence
from jaxloss.testing._result import Arrays, Result
from jaxloss.testing.diagnosis.factors import close
from jaxloss.testing.diagnosis.gradients import gradient_cause
from jaxloss.testing.diagnosis.values import value_cause
from jaxloss.testing.inputs import is_floating
from jaxloss.testing.layers._hypotheses import Change, Scene, changes
from jaxloss.testing.layers._judge import Trial
from jaxloss.testing.layers._match import Calls, Match, nearest
from jaxloss.testing.layers._runs import Event
from jaxloss.testing.layers._torch_model import TorchModel
from jaxloss.testing.layers._visits import Force, Key, first_array, replace_first
from jaxloss.testing.measure import EPS, difference


@dataclass(frozen=True)
class _Layer:
    """A torch layer as a function of its input, the layers inside it forced; stands in for a TorchSide."""

    model: TorchModel
    match: Match
    names: dict[Event, str]
    inputs_forced: dict[Key, Any]
    outputs_forced: dict[Key, Any]
    layouts: dict[Event, Any]

    is_recorded = False

    def run(self, inputs: Any, params: Any, dtype: str, *, around: Any = None) -> Result:
        """What it makes of other inputs or parameters, or inside a context."""
        return self.run_changed(inputs, Change("", params=dict(params)), around=around)

    def run_changed(self, inputs: Any, change: Change, *, around: Any = None) -> Result:
        """What it makes with a mistake in it."""
        call, params = self.match.theirs, change.params
        forced = {key: self.model.tensors(x) for key, x in change.forced.items()}
        visit = _ForceAndChange(self.inputs_forced, {**self.outputs_forced, **forced}, change.outputs)
        recorded = call.inputs if change.inputs is None else change.inputs
        given = replace_first(recorded, lambda x: self.model.tensors(np.asarray(inputs[0])))
        with around or contextlib.nullcontext():
            self.model.run_layer(call.key[0], visit, given, dict(params))
        made = {("input", k): x for k, x in visit.given.items()}
        made |= {("output", k): x for k, x in visit.returned.items()}
        return Result(
            {name: self.layouts[e].to_jax(to_numpy(made[e])) for e, name in self.names.items() if e in made},
            {},
        )


# Below this error, in eps, a mistake and none at all would both count as agreeing.
_LEAST = 256.0


class _ForceAndChange(Force):
    """Force the shared layers, and change what others return, by their input and output."""

    def __init__(self, inputs: Any, outputs: Any, change: Any) -> None:
        super().__init__(inputs, outputs)
        self._change = change
        self._first: dict[Key, Any] = {}

    def on_inputs(self, key: Key, inputs: Any) -> Any:
        if key in self._change:
            self._first[key] = first_array(inputs)
        return super().on_inputs(key, inputs)

    def on_outputs(self, key: Key, outputs: Any) -> Any:
        if key in self._change:
            return replace_first(outputs, lambda y: self._change[key](self._first[key], y))
        return super().on_outputs(key, outputs)


@dataclass(frozen=True)
class _Problem:
    """As much of a `Problem` as the diagnosis looks at."""

    torch_side: _Layer
    cotangents: Arrays


def evidence_of(trial: Trial, match: Match, inside: list[Match]) -> Evidence:
    """What both sides made of a layer's recorded input.

    Args:
        trial: both models.
        match: the layer.
        inside: the shared layers that it calls itself.
    """
    layer, names = _layer(trial, match, inside)
    ours, theirs = trial.jax_forced, trial.forced
    values = [{name: of[event] for event, name in names.items()} for of in (ours.values, theirs)]
    # Of what the layer was handed: its own input, and what the layers inside it returned.
    handed = [("input", match.ours.key), *(("output", m.ours.key) for m in inside)]
    gradients = [
        {f"gradient of input {i}": of[e] for i, e in enumerate(handed) if e in of}
        for of in (ours.gradients, trial.torch_forced.gradients)
    ]
    torchs = Result(values[1], gradients[1])
    problem: Any = _Problem(layer, {name: trial.cotangents[event] for event, name in names.items()})
    params = {n: x for n, x in trial.theirs.parameters(match.theirs.key[0]).items() if is_floating(x)}
    unit = trial.unit(trial.is_narrow)
    return Evidence(
        problem, unit, (match.theirs.given,), params, Result(values[0], gradients[0]), torchs, torchs
    )


def _layer(trial: Trial, match: Match, inside: list[Match]) -> tuple[_Layer, dict[Event, str]]:
    """The torch layer on its own, and the names of what it makes, by JAX's events."""
    counts: Counter[str] = Counter()
    forced: dict[str, dict[Key, Any]] = {"input": {}, "output": {}}
    names: dict[Event, str] = {}
    own_names, layouts = {}, {}
    for m in [*inside, match]:
        name = m.theirs.key[0]
        # On its own, the layer counts the calls inside it from 0.
        key = (name, counts[name])
        counts[name] += 1
        for kind, array, layout in (
            ("input", m.theirs.given, m.inputs),
            ("output", m.theirs.output, m.outputs),
        ):
            event = (kind, m.ours.key)
            if event not in trial.jax_forced.values or (m is match and kind == "input"):
                continue
            forced[kind][key] = trial.theirs.tensors(array)
            if kind == "input" or m is match:
                names[event] = "value" if m is match else f"value ['input of {m.ours.key[0]}']"
                own_names[kind, key], layouts[kind, key] = names[event], layout
    return _Layer(trial.theirs, match, own_names, forced["input"], forced["output"], layouts), names


def cause_of_values(
    trial: Trial, match: Match, inside: list[Match], torch_calls: Calls, event: Event
) -> str | None:
    """The likely cause in words; None when undoing no known mistake makes the two agree."""
    evidence = evidence_of(trial, match, inside)
    ours = evidence.ours.values
    layer: Any = evidence.problem.torch_side
    theirs, dtype = evidence.theirs.values, evidence.dtype
    if max(difference(x, theirs[name], dtype).eps_of_max for name, x in ours.items()) < _LEAST:
        return None
    for change in changes(_scene(trial, match, inside, torch_calls, evidence)):
        made = change.values or layer.run_changed(evidence.inputs, change).values
        if all(close(x, made[name], evidence.dtype) for name, x in ours.items()):
            return change.words
    return value_cause(evidence) or _precision(trial, ours, theirs)


def _precision(trial: Trial, ours: Arrays, theirs: Arrays) -> str | None:
    """What rounding to 16 bits would explain, where JAX's model is known to do that and torch's not to."""
    for dtype in ("bfloat16", "float16"):
        is_theirs, is_ours = (dtype in model.dtypes(trial.inputs) for model in (trial.theirs, trial.ours))
        within = all(difference(x, theirs[name], dtype).eps_of_max <= 16.0 for name, x in ours.items())
        if is_ours and not is_theirs and within:
            return (
                f"precision: JAX computes in {dtype} on the way and torch does not; the two agree within that"
            )
    return None


def _scene(trial: Trial, match: Match, inside: list[Match], torch_calls: Calls, evidence: Evidence) -> Scene:
    """What the layer was seen to do, for the mistakes to look at."""
    name = match.theirs.key[0]
    shared = {m.theirs.key for m in trial.matches}
    own = {}
    layer: Any = evidence.problem.torch_side
    ours, theirs = evidence.ours.values, evidence.theirs.values
    counts: Counter[str] = Counter()
    for key, call in torch_calls.items():
        if (
            nearest(call.parent, torch_calls, shared.__contains__) == match.theirs.key
            and key != match.theirs.key
        ):
            local = (key[0], counts[key[0]])
            counts[key[0]] += 1
            if key not in shared and call.given is not None and call.output is not None:
                own[local] = (call.given, call.output)
    prefix = f"{name}." if name else ""
    children = [m.theirs.key[0].removeprefix(prefix) + "." for m in inside]
    our_prefix = f"{match.ours.key[0]}/" if match.ours.key[0] else ""
    our_children = [m.ours.key[0].removeprefix(our_prefix) + "/" for m in inside]
    params = {n: x for n, x in evidence.params.items() if not n.startswith(tuple(children))}
    our_params = trial.ours.parameters(match.ours.key[0])
    return Scene(
        match.torch_input,
        ours,
        theirs,
        params,
        {n: x for n, x in our_params.items() if not n.startswith(tuple(our_children))},
        {key: to_numpy(x) for key, x in layer.outputs_forced.items() if key[0] != name},
        own,
        {key: to_numpy(x) for key, x in layer.inputs_forced.items() if key[0] != name},
        trial.theirs.parameters(""),
        match.theirs.inputs,
        tuple(n for n, x in ours.items() if not close(x, theirs[n], evidence.dtype)),
        64 * EPS[evidence.dtype],
    )


def cause_of_gradients(
    trial: Trial, match: Match, inside: list[Match], torch_calls: Calls, event: Event
) -> str | None:
    """The same where values agree and gradients do not."""
    evidence = evidence_of(trial, match, inside)
    handed = [("input", match.ours.key), *(("output", m.ours.key) for m in inside)]
    return gradient_cause(f"gradient of input {handed.index(event)}", evidence) if event in handed else None
