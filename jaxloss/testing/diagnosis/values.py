"""Name the likely cause where values differ.

Most hypotheses make torch commit the mistake that the JAX side may have made (another epsilon, two arguments
swapped, a kernel transposed), to see whether the two then agree: a cause is only named when it explains the
numbers.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxloss.testing._problem import Evidence
from jaxloss.testing._result import Leaves
from jaxloss.testing.diagnosis.factors import (
    close,
    common_factor,
    explain_factor,
    number,
    scale_candidates,
)
from jaxloss.testing.diagnosis.torch_calls import Edit, trace
from jaxloss.testing.diagnosis.torch_edits import edits
from jaxloss.testing.inputs import is_floating
from jaxloss.testing.measure import EPS, difference

_MAX_PARAMETERS = 64

# Of the mistakes that come together: a framework's defaults.
_USUAL = ("LayerNorm eps", "GELU variant", "mask", "missing scale: JAX's attention", "wrong axis")


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


class _Guess(NamedTuple):
    """A cause in words, and what torch must agree with JAX on for it to be the one.

    Args:
        words: to say.
        replaced: input arrays by name.
        params: in place of the evidence's.
        around: a context for torch's run.
        is_certain: whether the numbers have shown it already, so that torch need not run.
    """

    words: str
    replaced: dict[str, np.ndarray] | None = None
    params: Any = None
    around: Any = None
    is_certain: bool = False


def value_cause(evidence: Evidence) -> str | None:
    """The first hypothesis that explains the values, in words; None when none does."""
    for _, hypothesis in _HYPOTHESES:
        for guess in hypothesis(evidence):
            if guess.is_certain or _explains(guess, evidence):
                return guess.words
    return None


def _explains(guess: _Guess, evidence: Evidence) -> bool:
    inputs = Leaves.of(evidence.inputs).rebuild(guess.replaced or {})
    params = evidence.params if guess.params is None else guess.params
    try:
        changed = evidence.problem.torch_side.run(inputs, params, evidence.dtype, around=guess.around).values
    # A mistake that torch refuses to make explains nothing.
    except Exception:
        return False
    ours = evidence.ours.values
    return changed.keys() == ours.keys() and all(
        close(ours[name], value, evidence.dtype) for name, value in changed.items()
    )


def _narrower(evidence: Evidence) -> Iterator[_Guess]:
    sides = {"JAX": evidence.ours.values, "torch": evidence.theirs.values}
    for side, other in (("JAX", "torch"), ("torch", "JAX")):
        floats = [value for value in sides[side].values() if value.dtype.kind == "f"]
        if evidence.dtype == "float64" and floats and all(np.all(v == v.astype(np.float32)) for v in floats):
            pairs = [(value, sides[other][name]) for name, value in sides[side].items()]
            if all(difference(*pair, "float32").eps_of_max < 256 for pair in pairs):
                yield _Guess(
                    f"precision: {side} computes in float32 on float64 inputs (a cast, or a literal)",
                    is_certain=True,
                )


def _shared_factor(evidence: Evidence) -> float | None:
    """The factor between the values, where it is more than the ratio that any two numbers have."""
    ours, theirs, dtype = evidence.ours, evidence.theirs, evidence.dtype
    factor = common_factor(ours.values, theirs.values, dtype)
    if factor is None or sum(value.size for value in theirs.values.values()) > 1 or not theirs.gradients:
        return factor
    of_gradients = common_factor(ours.gradients, theirs.gradients, dtype)
    if of_gradients is None or not np.isclose(of_gradients, factor, rtol=256 * EPS[dtype], atol=0):
        return None
    return factor


def _known_factor(evidence: Evidence) -> Iterator[_Guess]:
    factor = _shared_factor(evidence)
    words = None if factor is None else explain_factor(factor, evidence.inputs, evidence.dtype)
    if words is not None:
        yield _Guess(words, is_certain=True)


def _any_factor(evidence: Evidence) -> Iterator[_Guess]:
    factor = _shared_factor(evidence)
    if factor is not None:
        yield _Guess(f"missing scale: JAX is {number(factor)} times torch everywhere", is_certain=True)


def _digits(evidence: Evidence) -> Iterator[_Guess]:
    ours, eps = evidence.ours.values, EPS[evidence.dtype]
    pairs = [(ours[name], value) for name, value in evidence.theirs.values.items()]
    error = eps * max(difference(*pair, evidence.dtype).eps_of_max for pair in pairs)
    if error <= eps**0.5:
        yield _Guess(
            f"precision: about {-np.log10(error):.0f} digits agree; probably one side loses the others by "
            "cancellation, as in mean(x^2) - mean(x)^2 or log(softmax(x))",
            is_certain=True,
        )


def _shifted(evidence: Evidence) -> Iterator[_Guess]:
    for name, array in Leaves.of(evidence.inputs).arrays().items():
        if array.dtype.kind in "iu" and array.ndim:
            for shift, when in ((-1, "later"), (1, "earlier")):
                words = f"labels shifted by one: JAX uses {name} a step {when}"
                yield _Guess(words, {name: np.roll(array, shift, axis=-1)})


def _swapped(evidence: Evidence) -> Iterator[_Guess]:
    floating = _floating(evidence)
    for i, (first, a) in enumerate(floating):
        for second, b in floating[i + 1 :]:
            if a.shape != b.shape:
                continue
            yield _Guess(f"swapped arguments: {first} and {second}", {first: b, second: a})
            for to_first, to_second in ((np.log, np.exp), (np.exp, np.log)):
                yield _Guess(
                    f"swapped KL arguments: {first} and {second} (one as logarithms) have changed places, "
                    "which gives KL(q || p) for KL(p || q)",
                    {first: _apply(to_first, b), second: _apply(to_second, a)},
                )


def _transposed(evidence: Evidence) -> Iterator[_Guess]:
    for name, array in _floating(evidence):
        for changed, how in _transpositions(array):
            yield _Guess(f"transposed kernel: JAX uses {name} {how}", {name: changed})
    paths, treedef = jax.tree_util.tree_flatten_with_path(evidence.params)
    leaves = [leaf for _, leaf in paths]
    transposed = [next((t for t, _ in _transpositions(leaf)), leaf) for leaf in leaves]
    kernels = [i for i, leaf in enumerate(leaves) if transposed[i] is not leaf]
    for chosen in [kernels, *([i] for i in kernels[:_MAX_PARAMETERS])] if kernels else []:
        which = jax.tree_util.keystr(paths[chosen[0]][0]) if len(chosen) == 1 else ", all of them,"
        params = [transposed[i] if i in chosen else leaf for i, leaf in enumerate(leaves)]
        words = f"transposed kernel: JAX uses params{which} transposed"
        yield _Guess(words, params=jax.tree.unflatten(treedef, params))


def _transpositions(array: np.ndarray) -> list[tuple[np.ndarray, str]]:
    if array.ndim < 2:
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


def _edited(evidence: Evidence) -> Iterator[_Guess]:
    for edit in _edits(evidence):
        yield _Guess(edit.words, around=edit.mode())


def _edited_twice(evidence: Evidence) -> Iterator[_Guess]:
    usual = [edit for edit in _edits(evidence) if edit.words.startswith(_USUAL)]
    for first, second in itertools.combinations(usual, 2):
        if first.name != second.name:
            yield _Guess(f"{first.words}; and {second.words}", around=_both(first, second))


@contextlib.contextmanager
def _both(first: Edit, second: Edit) -> Iterator[None]:
    with first.mode(), second.mode():
        yield


def _edits(evidence: Evidence) -> list[Edit]:
    if evidence.problem.torch_side.is_recorded:
        return []
    calls = trace(
        lambda around: evidence.problem.torch_side.run(
            evidence.inputs, evidence.params, evidence.dtype, around=around
        )
    )
    return list(edits(calls, scale_candidates(evidence.inputs)))


def _transformed(evidence: Evidence) -> Iterator[_Guess]:
    for name, array in _floating(evidence):
        for function, transform in _TRANSFORMS.items():
            if array.ndim:
                words = f"extra {function}: JAX applies {function} to {name} and torch does not"
                yield _Guess(words, {name: _apply(transform, array)})


def _scaled_input(evidence: Evidence) -> Iterator[_Guess]:
    for name, array in _floating(evidence):
        for factor, words in scale_candidates(evidence.inputs):
            changed = (array.astype(np.float64) * factor).astype(array.dtype)
            said = f"missing scale: the two agree when torch gets {name} times {words}"
            yield _Guess(said, {name: changed})


def _offset(evidence: Evidence) -> Iterator[_Guess]:
    theirs = {name: value for name, value in evidence.theirs.values.items() if value.size}
    pairs = [(evidence.ours.values[name], value) for name, value in theirs.items()]
    offset = float(pairs[0][0].flat[0]) - float(pairs[0][1].flat[0])
    said = f"a constant: JAX is torch {'+' if offset > 0 else '-'}"
    if sum(value.size for _, value in pairs) > 1:
        if all(close(ours, theirs + offset, evidence.dtype) for ours, theirs in pairs):
            yield _Guess(f"{said} {number(abs(offset))} everywhere", is_certain=True)
        return
    # Any two numbers differ by a constant: only a known one says something.
    two_pi = np.log(2 * np.pi)
    for constant, words in (
        (0.5 * two_pi, "log(2 pi) / 2"),
        (two_pi, "log(2 pi)"),
        (np.log(2), "log 2"),
        (1.0, "1"),
    ):
        if np.isclose(abs(offset), constant, rtol=1e-9, atol=0):
            yield _Guess(f"{said} {words}", is_certain=True)


# In this order; what is said of any numbers comes last.
_HYPOTHESES: list[tuple[str, Callable[[Evidence], Iterator[_Guess]]]] = [
    ("One side computes in float32.", _narrower),
    ("JAX is torch times a number that the inputs explain, such as a count of theirs.", _known_factor),
    ("Two inputs of one shape have changed places.", _swapped),
    ("A call inside the torch function has another option, axis, epsilon or scale in JAX.", _edited),
    ("A kernel is transposed, or reshaped instead.", _transposed),
    ("Two such calls have, of those that differ between the frameworks by default.", _edited_twice),
    ("Labels are used a step earlier or later.", _shifted),
    ("An input passes through softmax or the like once more.", _transformed),
    ("An input is scaled.", _scaled_input),
    ("JAX is torch plus a constant.", _offset),
    ("JAX is torch times any number.", _any_factor),
    ("The leading digits agree.", _digits),
]


def _floating(evidence: Evidence) -> list[tuple[str, np.ndarray]]:
    return [
        (name, array) for name, array in Leaves.of(evidence.inputs).arrays().items() if is_floating(array)
    ]


def _apply(function: Callable[[np.ndarray], np.ndarray], array: np.ndarray) -> np.ndarray:
    """In float64, rounded back; where it is not defined, NaN."""
    with np.errstate(all="ignore"):
        return function(array.astype(np.float64)).astype(array.dtype)
