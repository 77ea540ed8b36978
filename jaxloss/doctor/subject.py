"""The loss that is examined: called with inputs of its kind, in any dtype, within a budget of seconds.

Shapes: N examples, U units, M examples of a unit. A unit is what the loss is analysed on: one example
    where the loss of a batch is a mean or sum over examples, a small batch where it is not.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss.doctor.inputs import Arguments, InputSpec

WIDE_UNIT = 16  # examples; enough for a correlation that is not near 1 by chance
_AT_ONCE = 256  # units of one compiled call: all checks share its program

_NARROWEST_FIRST = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}  # as JAX prints them

Array = Any
Target = Any


class OutOfTime(Exception):
    """The budget is spent."""


class NothingFinite(Exception):
    """No input drawn has a finite value to compare."""


class Subject:
    """A loss with its kind of inputs.

    `prediction` is the differentiated argument (several are stacked along a new last axis), `target` the
    other argument, or a tuple where there is not exactly one.

    Args:
        function: the loss.
        spec: its inputs.
        dtypes: to examine it in, besides float64.
        budget_seconds: after which a call of the loss raises `OutOfTime`.
        name: of the loss; by default that of the function.

    Attributes:
        kinks: what `checks.kinks` found, for the other checks.
        works: whether it can be called and differentiated.
        takes_mean: whether the loss gives one value for each example, of which `loss` is the mean.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        spec: InputSpec,
        dtypes: tuple[str, ...],
        budget_seconds: float,
        name: str | None = None,
    ):
        self.function, self.spec, self.dtypes = function, spec, dtypes
        self.name = name or name_of(function)
        self.deadline = time.perf_counter() + budget_seconds
        self.takes_mean = False
        self.works = True
        self.kinks: Any = None
        self._programs: dict[str, Callable[..., Any]] = {}

    @cached_property
    def options(self) -> frozenset[str]:
        """Names of the loss's keyword arguments, such as "reduction" and "where"."""
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):
            return frozenset()
        return frozenset(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))

    def loss(self, prediction: Array, target: Target, **options: Any) -> Array:
        """The loss of a batch, a scalar unless an option says otherwise; can be traced by every transform."""
        if time.perf_counter() > self.deadline:
            raise OutOfTime
        value = self.function(*self.join(prediction, target), **options)
        value = jnp.asarray(value) if isinstance(value, (int, float)) else value
        return jnp.mean(value) if self.takes_mean and jnp.ndim(value) == 1 else value

    def each(self, prediction: Array, target: Target) -> Array:
        """The loss of each example as a batch of its own, [N]."""

        def single(*arrays: Array) -> Array:
            return self.loss(*jax.tree.map(lambda a: a[None], arrays))

        return jax.vmap(single)(prediction, target)

    @cached_property
    def reduction(self) -> str | None:
        """The batch's loss in terms of `each`: "mean" or "sum"; None where it needs the whole batch."""
        prediction, target = self.draw(8, seed=1)
        with jax.enable_x64(True):
            arrays = as_dtype((prediction, target), "float64")
            both = jax.jit(lambda p, t: (self.loss(p, t), self.each(p, t)))
            batch, each = map(np.asarray, both(*arrays))
            if not np.isfinite(batch):
                # An example that the loss is not meant for does not say how the others are put together.
                kept = np.flatnonzero(np.isfinite(each))
                if not len(kept):
                    return "mean"
                rows = np.resize(kept, len(each))
                batch, each = map(np.asarray, both(*jax.tree.map(lambda a: a[rows], arrays)))
        # bfloat16 is right to 2 digits.
        for name, value in (("mean", np.mean(each)), ("sum", np.sum(each))):
            if np.allclose(batch, value, rtol=5e-2 if self.is_coarse else 1e-5, atol=0):
                return name
        return None

    @cached_property
    def precision(self) -> str:
        """The narrowest floating dtype that the loss computes in when it is given float64."""
        with jax.enable_x64(True):
            program = str(jax.make_jaxpr(self.loss)(*as_dtype(self.draw(8), "float64")))
        named = set(re.findall(r"\b(bf16|f16|f32)\[", program))
        return next((dtype for short, dtype in _NARROWEST_FIRST.items() if short in named), "float64")

    @property
    def is_rough(self) -> bool:
        """Whether the loss is less precise than float64 even when it is given float64."""
        return self.precision != "float64"

    @property
    def is_coarse(self) -> bool:
        """Whether it computes in 16 bits even then: its differences say nothing about its derivatives."""
        return self.precision in ("bfloat16", "float16")

    @property
    def unit_size(self) -> int:
        """Examples in a unit."""
        return WIDE_UNIT if self.reduction is None else 1

    def draw(self, num: int, seed: int = 0) -> tuple[np.ndarray, Any]:
        """Predictions and targets of `num` examples, float64 and integers, the same for the same seed."""
        return self.split(self.spec.draw(np.random.default_rng(seed), num))

    def draw_units(self, num: int, seed: int = 0) -> tuple[np.ndarray, Any]:
        """The same as units, [U, M, ...]."""
        drawn = self.draw(num * self.unit_size, seed)
        return jax.tree.map(lambda a: a.reshape(num, self.unit_size, *a.shape[1:]), drawn)

    def scaled(self, num: int, scale: float, seed: int = 0) -> tuple[np.ndarray, Any]:
        """Units as drawn, their predictions times `scale`."""
        prediction, target = self.draw_units(num, seed)
        return np.clip(scale * prediction, self.spec.low, self.spec.high), target

    def corners(self, size: float) -> tuple[np.ndarray, Any]:
        """Units of this size at which arithmetic goes wrong: opposite, equal and single entries, batches."""
        prediction, target = self.draw_units(8, seed=4)
        own = [(sign * size * np.ones_like(prediction), target) for sign in (1, -1)] + [
            (size * prediction, target)
        ]
        if self.spec.corners is not None:
            own.append(self.as_units(self.spec.corners(size)))
        else:
            single = np.zeros((2, *prediction.shape))
            single.reshape(2, len(prediction), -1)[:, :, 0] = [[size], [-size]]
            own += [(each, target) for each in single]
        prediction, target = together(own)
        return np.clip(prediction, self.spec.low, self.spec.high), target

    def line(self, margin: np.ndarray) -> tuple[np.ndarray, Any]:
        """Units whose (first) examples have these margins."""
        if self.spec.line is not None:
            return self.as_units(self.spec.line(margin))
        arguments = self.spec.draw(np.random.default_rng(2), 1)
        prediction, target = self.split(tuple(np.repeat(a, len(margin), 0) for a in arguments))
        prediction.reshape(len(margin), -1)[:, 0] = margin
        return self.as_units(tuple(self.join(prediction, target)))

    def as_units(self, arguments: Arguments) -> tuple[np.ndarray, Any]:
        """Each example as a unit: on its own, or as the first of an otherwise typical batch."""
        examples = self.split(arguments)
        if self.unit_size == 1:
            return jax.tree.map(lambda a: a[:, None], examples)
        others = self.draw(self.unit_size - 1, seed=2)

        def beside(a: np.ndarray, other: np.ndarray) -> np.ndarray:
            return np.concatenate([a[:, None], np.broadcast_to(other, (len(a), *other.shape))], 1)

        return jax.tree.map(beside, examples, others)

    def split(self, arguments: Arguments) -> tuple[np.ndarray, Any]:
        """Arguments of the loss as prediction and target."""
        wrt = self.spec.wrt
        chosen = (wrt,) if isinstance(wrt, int) else wrt
        rest = tuple(a for i, a in enumerate(arguments) if i not in chosen)
        prediction = arguments[wrt] if isinstance(wrt, int) else np.stack([arguments[i] for i in wrt], -1)
        return prediction, rest[0] if len(rest) == 1 else rest

    def join(self, prediction: Array, target: Target) -> list[Array]:
        """Prediction and target as the arguments of the loss."""
        wrt = self.spec.wrt
        arguments = list(target) if isinstance(target, tuple) else [target]
        if isinstance(wrt, int):
            return [*arguments[:wrt], prediction, *arguments[wrt:]]
        for place, i in sorted((i, place) for place, i in enumerate(wrt)):
            arguments.insert(place, prediction[..., i])
        return arguments

    def show(self, prediction: np.ndarray, target: Any, unit: int) -> str:
        """One of several units, as its arguments; of a batch, the first example."""
        arguments = self.join(*jax.tree.map(lambda a: a[unit, 0], (prediction, target)))
        shown = ", ".join(np.array2string(np.asarray(a), precision=4, separator=", ") for a in arguments)
        return f"({shown})" + (f" and {self.unit_size - 1} more" if self.unit_size > 1 else "")

    def evaluate(
        self, prediction: np.ndarray, target: Any, dtype: str = "float64"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values [U] and gradients [U, M, ...] of units, computed in `dtype` and returned as float64."""
        return self.by_unit(jax.value_and_grad(self.loss), prediction, target, dtype, name="value")

    def hessians(self, prediction: np.ndarray, target: Any) -> np.ndarray:
        """Second derivatives of units in float64, [U, P, P], the P entries of a prediction in their order."""

        def second(prediction: Array, target: Target) -> Array:
            # Backwards over backwards: a custom_vjp has no forward mode.
            gradient = jax.grad(lambda flat: self.loss(flat.reshape(prediction.shape), target))
            return jax.jacrev(gradient)(prediction.reshape(-1))

        return self.by_unit(second, prediction, target, "float64", name="hessian")

    def by_unit(
        self, function: Callable[..., Any], prediction: Any, target: Any, dtype: str, *, name: str
    ) -> Any:
        """A function of one unit over many, a chunk at a time; compiled once for each name and dtype."""
        key = f"{name} {dtype}"
        if key not in self._programs:
            self._programs[key] = jax.jit(jax.vmap(function))
        num = len(jax.tree.leaves(prediction)[0])
        padding = np.concatenate([np.arange(num), np.zeros(-num % _AT_ONCE, int)])
        chunks = []
        # Without float64 around: a constant of the loss's own would widen what follows.
        with jax.enable_x64(dtype == "float64"):
            for rows in padding.reshape(-1, _AT_ONCE):
                if time.perf_counter() > self.deadline:
                    raise OutOfTime
                arrays = as_dtype(jax.tree.map(lambda a: a[rows], (prediction, target)), dtype)  # noqa: B023
                chunks.append(jax.tree.map(_as_float64, self._programs[key](*arrays)))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *chunks)


def together(units: Sequence[tuple[np.ndarray, Any]]) -> tuple[np.ndarray, Any]:
    """Several lots of units as one."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *units)


def as_dtype(arrays: Any, dtype: str) -> Any:
    """Arrays of JAX, floating point in `dtype`, integers and booleans as they are."""
    return jax.tree.map(lambda a: jnp.asarray(a, dtype if np.asarray(a).dtype.kind == "f" else None), arrays)


def rounded(arrays: Any, dtype: str) -> Any:
    """Floating point arrays as `dtype` holds them, in float64 again: one input for both."""
    narrow = jnp.dtype(dtype)

    def each(a: np.ndarray) -> np.ndarray:
        return a.astype(narrow).astype(np.float64) if a.dtype.kind == "f" else a

    with np.errstate(over="ignore"):
        return jax.tree.map(each, arrays)


@contextlib.contextmanager
def what_is_printed() -> Iterator[io.StringIO]:
    """Keep what the loss prints off the terminal."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield printed
        jax.effects_barrier()


def name_of(function: Callable[..., Any]) -> str:
    """The function's name; of a partial, that of what it calls."""
    inner = getattr(function, "func", function)
    return getattr(inner, "__name__", type(inner).__name__)


def _as_float64(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float64)
