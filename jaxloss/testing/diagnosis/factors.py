"""Say what a number is: which size, count or scale of the inputs it can stand for."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxloss.testing._result import Arrays, Leaves
from jaxloss.testing.measure import EPS, difference

_IGNORED_LABEL = -100


def close(a: np.ndarray, b: np.ndarray, dtype: str) -> bool:
    """Whether two arrays are equal but for rounding."""
    return difference(a, b, dtype).eps_of_max <= 64.0


def common_factor(ours: Arrays, theirs: Arrays, dtype: str) -> float | None:
    """The number that JAX's arrays are torch's times, if there is one."""
    a = np.concatenate([np.ravel(ours[name]).astype(np.float64) for name in theirs])
    b = np.concatenate([np.ravel(value).astype(np.float64) for value in theirs.values()])
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or not np.any(b):
        return None
    at = np.argmax(np.abs(b))
    factor = float(a[at] / b[at])
    return factor if factor != 0.0 and close(a, factor * b, dtype) else None


def explain_factor(factor: float, inputs: tuple[Any, ...], dtype: str) -> str | None:
    """Explain why JAX may be `factor` times torch; None where the number means nothing."""
    tolerance = 256 * EPS[dtype]

    def is_close(candidate: float) -> bool:
        return bool(np.isclose(factor, candidate, rtol=tolerance, atol=0.0))

    said = f"JAX is {number(factor)} times torch"
    if is_close(-1.0):
        return f"opposite sign: {said}"
    counts = [(1.0, ""), *_counts(inputs)]
    ratios = [(a / b, top, bottom) for a, top in counts for b, bottom in counts if b and a != b]
    # The simplest explanation first: one count before a ratio of two.
    for ratio, top, bottom in sorted(ratios, key=lambda entry: bool(entry[1]) + bool(entry[2])):
        if is_close(ratio):
            names = f"{top} / {bottom}" if top and bottom else top or f"1 / {bottom}"
            return f"wrong reduction denominator: {said}, and that is {names}"
    if is_close(np.log(2)) or is_close(1 / np.log(2)):
        return f"missing scale: {said}: one side is in bits, the other in nats"
    words = [words for scale, words in scale_candidates(inputs) if is_close(scale)]
    return f"missing scale: {said}, and that is {' or '.join(dict.fromkeys(words))}" if words else None


def scale_candidates(inputs: tuple[Any, ...]) -> list[tuple[float, str]]:
    """Factors that are easily forgotten, with their names: plain ones first, then roots of the sizes."""
    sizes = sorted(
        {size for array in Leaves.of(inputs).arrays().values() for size in array.shape if size > 1}
    )
    plain = [(2.0, "2"), (0.5, "1/2"), (-1.0, "-1")]
    return plain + [(f(size), words.format(size)) for f, words in (*_ROOTS, *_SIZES) for size in sizes]


_ROOTS = [(lambda size: size**-0.5, "1/sqrt({})"), (lambda size: size**0.5, "sqrt({})")]
_SIZES = [(lambda size: 1 / size, "1/{}"), (lambda size: float(size), "{}")]


def number(value: float) -> str:
    """A number as short as its own digits allow, at most seven of them."""
    return f"{value:.7g}"


def _counts(inputs: tuple[Any, ...]) -> Iterator[tuple[float, str]]:
    arrays = Leaves.of(inputs).arrays()
    for name, array in arrays.items():
        for axis, size in enumerate(array.shape):
            yield float(size), f"the size of axis {axis} of {name}"
    for name, array in arrays.items():
        if array.dtype.kind == "b":
            yield float(array.sum()), f"the number of True in {name}"
        elif array.dtype.kind in "iu":
            num_kept = float((array != _IGNORED_LABEL).sum())
            yield num_kept, f"the number of labels in {name} that are not ignored"
            for other, weight in arrays.items():
                if weight.ndim == 1 and weight.dtype.kind not in "iub":
                    kept = array[(array >= 0) & (array < weight.size)]
                    total = float(weight.astype(np.float64)[kept].sum())
                    yield total, f"the sum of {other} at the labels {name}"
        elif array.ndim == 1 and (array >= 0).all():
            yield float(array.astype(np.float64).sum()), f"the sum of {name}"
    for name, array in arrays.items():
        if array.ndim > 1:
            yield float(array.size), f"the number of elements of {name}"
            if array.size:
                yield float(array.size / array.shape[-1]), f"the number of rows of {name}"
