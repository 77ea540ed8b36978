"""Name the likely cause of a disagreement.

Each hypothesis makes torch commit the mistake that the JAX side may have made (another epsilon, two arguments
swapped, a kernel transposed) and looks whether the two then agree: a cause is only named when it explains the
numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxloss.testing._gradient_diagnosis import gradient_cause
from jaxloss.testing._run import Arrays, Leaves, Result
from jaxloss.testing._torch_calls import trace
from jaxloss.testing._torch_edits import edits
from jaxloss.testing.factors import close, common_factor, explain_factor, number, scale_candidates
from jaxloss.testing.measure import EPS, difference
from jaxloss.testing.report import Comparison

_MAX_PARAMETERS = 64


def _softmax(array: np.ndarray) -> np.ndarray:
    powers = np.exp(array - array.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# What is easily applied to an input a second time.
_TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "log_softmax": lambda array: np.log(_softmax(array)),
    "sigmoid": lambda array: 1 / (1 + np.exp(-array)),
    "log": np.log,
    "exp": np.exp,
}


@dataclass
class Evidence:
    """What is known about a disagreement, and the means to run torch again."""

    dtype: str
    inputs: tuple[Any, ...]
    torch_result: Result
    truth: Result
    torch: Callable[..., Result]
    cotangents: Arrays
    params: Any
    agreed_in_float64: bool = False
    jax_result: Result | None = None

    def agrees(
        self, inputs: tuple[Any, ...] | None = None, *, params: Any = None, around: Any = None
    ) -> bool:
        """Whether torch gives what JAX gave, when it is run on other inputs or inside a context."""
        assert self.jax_result is not None
        try:
            changed = self.torch(
                self.inputs if inputs is None else inputs,
                None,
                self.dtype,
                self.params if params is None else params,
                around=around,
            )
        # A mistake that torch refuses to make explains nothing.
        except Exception:
            return False
        ours = self.jax_result.values
        if {n: a.shape for n, a in changed.values.items()} != {n: a.shape for n, a in ours.items()}:
            return False
        return all(close(ours[name], value, self.dtype) for name, value in changed.values.items())


def likely_cause(evidence: Evidence, comparisons: list[Comparison]) -> str | None:
    """The first hypothesis that explains the failed comparisons, in words; None when none does."""
    failed = [comparison for comparison in comparisons if not comparison.passed]
    if any(comparison.mismatch for comparison in failed):
        return _of_shapes(evidence, failed[0].mismatch or "")
    if evidence.agreed_in_float64:
        return (
            "precision: the two agree in float64, so the formula is right, but JAX loses digits in "
            f"{evidence.dtype} (cancellation, as in mean(x^2) - mean(x)^2 or log(softmax(x)), or an "
            "intermediate in a narrower dtype)"
        )
    if any(comparison.what.startswith("value") for comparison in failed):
        hypotheses = (
            _narrower,
            _factor,
            _swapped,
            _transposed,
            _edited,
            _shifted,
            _transformed,
            _scaled_input,
            _offset,
            _any_factor,
            _digits,
        )
        return next(filter(None, (hypothesis(evidence) for hypothesis in hypotheses)), None)
    assert evidence.jax_result is not None
    name = failed[0].what
    gradients = evidence.jax_result.gradients[name], evidence.torch_result.gradients[name]
    return gradient_cause(name, *gradients, evidence.cotangents, evidence.inputs, evidence.dtype)


def _of_shapes(evidence: Evidence, mismatch: str) -> str | None:
    shapes = [value.shape for value in evidence.torch_result.values.values()]
    if shapes == [()]:
        return "reduction: torch reduces to a scalar and JAX does not"
    return (
        "reduction: JAX reduces to a scalar and torch does not"
        if mismatch.split(";")[0].endswith("[]")
        else None
    )


def _narrower(evidence: Evidence) -> str | None:
    assert evidence.jax_result is not None
    sides = {"JAX": evidence.jax_result.values, "torch": evidence.torch_result.values}
    for side, values in sides.items():
        floats = [value for value in values.values() if value.dtype.kind == "f"]
        if evidence.dtype == "float64" and floats and all(np.all(v == v.astype(np.float32)) for v in floats):
            other = sides["torch" if side == "JAX" else "JAX"]
            if all(difference(v, other[name], "float32").eps_of_max < 256 for name, v in values.items()):
                return f"precision: {side} computes in float32 on float64 inputs (a cast, or a literal)"
    return None


def _shared_factor(evidence: Evidence) -> float | None:
    """The factor between the values, where it is more than the ratio that any two numbers have."""
    assert evidence.jax_result is not None
    ours, theirs = evidence.jax_result, evidence.torch_result
    factor = common_factor(ours.values, theirs.values, evidence.dtype)
    if factor is None or sum(value.size for value in theirs.values.values()) > 1 or not theirs.gradients:
        return factor
    of_gradients = common_factor(ours.gradients, theirs.gradients, evidence.dtype)
    shared = of_gradients is not None and np.isclose(
        of_gradients, factor, rtol=256 * EPS[evidence.dtype], atol=0
    )
    return factor if shared else None


def _factor(evidence: Evidence) -> str | None:
    factor = _shared_factor(evidence)
    return None if factor is None else explain_factor(factor, evidence.inputs, evidence.dtype)


def _any_factor(evidence: Evidence) -> str | None:
    factor = _shared_factor(evidence)
    return None if factor is None else f"missing scale: JAX is {number(factor)} times torch everywhere"


def _digits(evidence: Evidence) -> str | None:
    assert evidence.jax_result is not None
    ours, theirs = evidence.jax_result.values, evidence.torch_result.values
    error = max(difference(ours[name], value, evidence.dtype).eps_of_max for name, value in theirs.items())
    if error * EPS[evidence.dtype] > EPS[evidence.dtype] ** 0.5:
        return None
    return (
        f"precision: about {-np.log10(error * EPS[evidence.dtype]):.0f} digits agree; probably one side "
        "loses the others by cancellation, as in mean(x^2) - mean(x)^2 or log(softmax(x))"
    )


def _shifted(evidence: Evidence) -> str | None:
    leaves = Leaves.of(evidence.inputs)
    for name, array in leaves.arrays().items():
        if array.dtype.kind in "iu" and array.ndim:
            for shift in (-1, 1):
                if evidence.agrees(leaves.rebuild({name: np.roll(array, shift, axis=-1)})):
                    when = "a step later" if shift < 0 else "a step earlier"
                    return f"labels shifted by one: JAX uses {name} {when}"
    return None


def _swapped(evidence: Evidence) -> str | None:
    leaves = Leaves.of(evidence.inputs)
    floating = [(name, array) for name, array in leaves.arrays().items() if array.dtype.kind not in "iub"]
    for i, (first, a) in enumerate(floating):
        for second, b in floating[i + 1 :]:
            if a.shape != b.shape:
                continue
            if evidence.agrees(leaves.rebuild({first: b, second: a})):
                return f"swapped arguments: {first} and {second}"
            with np.errstate(all="ignore"):
                logs = {first: np.log(b.astype(np.float64)), second: np.exp(a.astype(np.float64))}
                back = {first: np.exp(b.astype(np.float64)), second: np.log(a.astype(np.float64))}
            for swapped in (logs, back):
                swapped = {name: array.astype(a.dtype) for name, array in swapped.items()}
                if evidence.agrees(leaves.rebuild(swapped)):
                    return (
                        f"swapped KL arguments: {first} and {second} (one as logarithms) have changed "
                        "places, which gives KL(q || p) for KL(p || q)"
                    )
    return None


def _transposed(evidence: Evidence) -> str | None:
    leaves = Leaves.of(evidence.inputs)
    for name, array in leaves.arrays().items():
        for changed, how in _transpositions(array):
            if evidence.agrees(leaves.rebuild({name: changed})):
                return f"transposed kernel: JAX uses {name} {how}"
    paths, treedef = jax.tree_util.tree_flatten_with_path(evidence.params)
    for chosen in _choices(len(paths)):
        changed_leaves = [
            next((t for t, _ in _transpositions(leaf)), leaf) if i in chosen else leaf
            for i, (_, leaf) in enumerate(paths)
        ]
        if all(c is leaf for c, (_, leaf) in zip(changed_leaves, paths, strict=True)):
            continue
        if evidence.agrees(params=jax.tree.unflatten(treedef, changed_leaves)):
            names = [jax.tree_util.keystr(paths[i][0]) for i in chosen if paths[i][1].ndim >= 2]
            which = names[0] if len(names) == 1 else ", all of them,"
            return f"transposed kernel: JAX uses params{which} transposed"
    return None


def _choices(num_parameters: int) -> Iterator[list[int]]:
    if num_parameters:
        yield list(range(num_parameters))
        yield from ([i] for i in range(min(num_parameters, _MAX_PARAMETERS)))


def _transpositions(array: np.ndarray) -> list[tuple[np.ndarray, str]]:
    if array.ndim < 2 or array.dtype.kind in "iub":
        return []
    other = np.swapaxes(array, -1, -2)
    if other.shape == array.shape:
        return [(np.ascontiguousarray(other), "transposed")]
    # Not square: what a reshape to the other layout does, where a transpose was meant, or the other way
    # round.
    reshaped = "reshaped where it should be transposed"
    return [
        (np.swapaxes(array.reshape(other.shape), -1, -2), reshaped),
        (other.reshape(array.shape), reshaped),
    ]


def _edited(evidence: Evidence) -> str | None:
    def run(around: Any) -> None:
        evidence.torch(evidence.inputs, None, evidence.dtype, evidence.params, around=around)

    for edit in edits(trace(run), scale_candidates(evidence.inputs)):
        if evidence.agrees(around=edit.mode()):
            return edit.words
    return None


def _transformed(evidence: Evidence) -> str | None:
    leaves = Leaves.of(evidence.inputs)
    for name, array in leaves.arrays().items():
        for function, transform in _TRANSFORMS.items():
            if array.dtype.kind in "iub" or array.ndim == 0:
                continue
            with np.errstate(all="ignore"):
                changed = transform(array.astype(np.float64)).astype(array.dtype)
            if evidence.agrees(leaves.rebuild({name: changed})):
                return f"extra {function}: JAX applies {function} to {name} and torch does not"
    return None


def _scaled_input(evidence: Evidence) -> str | None:
    leaves = Leaves.of(evidence.inputs)
    for name, array in leaves.arrays().items():
        if array.dtype.kind in "iub":
            continue
        for factor, words in scale_candidates(evidence.inputs):
            changed = (array.astype(np.float64) * factor).astype(array.dtype)
            if evidence.agrees(leaves.rebuild({name: changed})):
                return f"missing scale: the two agree when torch gets {name} times {words}"
    return None


def _offset(evidence: Evidence) -> str | None:
    assert evidence.jax_result is not None
    pairs = [
        (evidence.jax_result.values[name], value) for name, value in evidence.torch_result.values.items()
    ]
    offset = float((pairs[0][0] - pairs[0][1]).flat[0])
    if sum(value.size for _, value in pairs) == 1:
        known = {
            0.5 * np.log(2 * np.pi): "log(2 pi) / 2",
            np.log(2 * np.pi): "log(2 pi)",
            np.log(2): "log 2",
            1.0: "1",
        }
        words = next((w for c, w in known.items() if np.isclose(abs(offset), c, rtol=1e-9, atol=0)), None)
        return f"a constant: JAX is torch {'+' if offset > 0 else '-'} {words}" if words else None
    if not all(close(ours, theirs + offset, evidence.dtype) for ours, theirs in pairs):
        return None
    return f"a constant: JAX is torch {'+' if offset > 0 else '-'} {number(abs(offset))} everywhere"
