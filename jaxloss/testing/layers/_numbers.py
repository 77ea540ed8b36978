"""Mistakes in a port of a norm and of rotary embeddings, told from the numbers."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxloss.interop import to_numpy, to_torch
from jaxloss.testing.layers._visits import map_arrays

_EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12, 1e-3, 1e-4, 1e-7, 0.0)
_BASES = (10000.0, 500000.0, 1000000.0, 100000.0, 50000.0, 5000000.0)


class _Norm(NamedTuple):
    """One way to normalise the last axis."""

    subtracts_mean: bool
    eps: float
    scale: str
    has_bias: bool

    def __call__(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True) if self.subtracts_mean else x
        x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + self.eps)
        x = x * {"weight": weight, "1 + weight": 1 + weight, "nothing": np.ones_like(weight)}[self.scale]
        return x + bias if self.has_bias and bias is not None else x

    def against(self, other: "_Norm") -> str:
        """What JAX does that torch's norm does not."""
        said = []
        if self.subtracts_mean != other.subtracts_mean:
            kinds = [("RMSNorm", "LayerNorm")[norm.subtracts_mean] for norm in (self, other)]
            said.append(
                f"{kinds[0]} for {kinds[1]}: JAX {'subtracts' if self[0] else 'does not subtract'} the mean"
            )
        if self.eps != other.eps:
            kind = "LayerNorm" if other.subtracts_mean else "RMSNorm"
            said.append(f"{kind} eps: JAX's is {self.eps:g}, torch's {other.eps:g}")
        if self.scale != other.scale:
            said.append(f"norm: JAX multiplies by {self.scale}, torch by {other.scale}")
        if self.has_bias != other.has_bias:
            said.append(f"norm: JAX {'adds' if self.has_bias else 'leaves out'} the bias")
        return "; ".join(said)


def norms(
    x: np.ndarray, ours: np.ndarray, theirs: np.ndarray, params: Mapping[str, np.ndarray], rtol: float
) -> str | None:
    """How JAX's norm differs from torch's, where both are norms of their input; None otherwise."""
    weights = [p for p in params.values() if p.shape == x.shape[-1:]]
    is_norm = len(weights) == len(params) and len(params) in (1, 2)
    if not is_norm or ours.shape != x.shape or theirs.shape != x.shape:
        return None
    weight = next((p for name, p in params.items() if name.endswith("weight")), weights[0])
    bias = next((p for name, p in params.items() if name.endswith("bias")), None)
    choices = itertools.product(
        (False, True),
        _EPSILONS,
        ("weight", "1 + weight", "nothing"),
        (True, False) if bias is not None else (False,),
    )
    made = [(norm := _Norm(*choice), norm(x, weight, bias)) for choice in choices]

    def nearest(y: np.ndarray) -> _Norm | None:
        errors = [float(np.max(np.abs(z - y))) for _, z in made]
        best = int(np.argmin(errors))
        return made[best][0] if errors[best] <= rtol * np.max(np.abs(y)) else None

    found = nearest(ours), nearest(theirs)
    if found[0] is None or found[1] is None or found[0] == found[1]:
        return None
    return found[0].against(found[1])


class Rotary:
    """The cosines and sines among a layer's inputs.

    Args:
        inputs: of torch's layer, as they were recorded.

    Raises:
        LookupError: there are none.
    """

    def __init__(self, inputs: Any) -> None:
        arrays: list[Any] = []
        map_arrays(arrays.append, inputs)
        pairs = [(a, b) for a, b in itertools.pairwise(arrays) if _is_circle(to_numpy(a), to_numpy(b))]
        if not pairs:
            raise LookupError("no cosines and sines")
        self._inputs, self._pair = inputs, pairs[0]
        self._cos, self._sin = (to_numpy(x).astype(np.float64) for x in pairs[0])
        self.width = self._cos.shape[-1]

    def others(self) -> Iterator[tuple[str, Any]]:
        """Words, and the inputs with cosines and sines of another kind."""
        yield "rotary: JAX turns the other way (the sign of the sine)", self._with(self._cos, -self._sin)
        half = self.width // 2
        if half < 2:
            return
        angle = np.arctan2(self._sin, self._cos).reshape(-1, *self._cos.shape[-2:])[0]
        present = float(angle[1, half - 1] - angle[0, half - 1]) ** (-half / (half - 1))
        time_T1 = np.arange(len(angle))[:, None]
        for base in _BASES:
            if not np.isclose(base, present, rtol=1e-3):
                turned = np.broadcast_to(
                    time_T1 * np.tile(base ** (-np.arange(half) / half), 2), self._cos.shape
                )
                words = f"rotary base: JAX's is {base:g}, torch's {present:.6g}"
                yield words, self._with(np.cos(turned), np.sin(turned))

    def _with(self, cos: np.ndarray, sin: np.ndarray) -> Any:
        new = {id(self._pair[0]): cos, id(self._pair[1]): sin}
        return map_arrays(lambda x: to_torch(new[id(x)], str(x.device)) if id(x) in new else x, self._inputs)


def _is_circle(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.ndim < 2 or a.shape[-2] < 2 or a.dtype.kind != "f" or b.dtype.kind != "f":
        return False
    return bool(np.allclose(a**2 + b**2, 1.0, atol=1e-3) and np.any(b))
