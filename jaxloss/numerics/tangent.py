"""What rules of differentiation share."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero


def tangent_of(slopes: Sequence[Callable[[], jax.Array]], tangents: Sequence[Any]) -> jax.Array:
    """The tangent of a function of several arguments; only the slopes of those that vary are computed."""
    pairs = zip(slopes, tangents, strict=True)
    products = [slope() * tangent for slope, tangent in pairs if type(tangent) is not SymbolicZero]
    return sum(products[1:], products[0])
