"""Which of torch's weights each of JAX's is, and what is done to it on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Source:
    """Where an array of JAX's comes from.

    Args:
        names: of torch's parameters: one, or several that are joined or stacked.
        axes: the order that torch's axes are put in; None leaves them.
        join: "stack" for one block after another along a new first axis, or the axis to join along, after
            torch's axes have their order; None for a lone parameter.
        part: the axis, start and end of the part that is taken; None takes all.
        shape: to reshape to at last; None leaves it.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    join: str | int | None = None
    part: tuple[int, int, int] | None = None
    shape: tuple[int, ...] | None = None

    def of(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The array, made of torch's."""
        arrays = [
            weights[name] if self.axes is None else weights[name].transpose(self.axes) for name in self.names
        ]
        if self.join is None:
            array = arrays[0]
        else:
            array = np.stack(arrays) if isinstance(self.join, str) else np.concatenate(arrays, self.join)
        if self.part is not None:
            axis, start, end = self.part
            array = array[(slice(None),) * axis + (slice(start, end),)]
        return np.ascontiguousarray(array if self.shape is None else array.reshape(self.shape))

    def code(self) -> str:
        """The same as an expression in a dict `w` of torch's weights."""
        turned = "" if self.axes is None else ".T" if self.axes == (1, 0) else f".transpose{self.axes}"
        parts = [f'w["{name}"]{turned}' for name in self.names]
        said = parts[0]
        if self.join is not None:
            said = f"np.stack([{', '.join(parts)}])"
            if not isinstance(self.join, str):
                said = f"np.concatenate([{', '.join(parts)}], {self.join})"
        if self.part is not None:
            axis, start, end = self.part
            said += f"[{':, ' * axis}{start}:{end}]"
        return said if self.shape is None else f"{said}.reshape{self.shape}"


@dataclass(frozen=True)
class WeightMap:
    """A mapping from torch's weights to a JAX model's.

    Args:
        sources: JAX's paths, and where each array comes from.
        params: the tree, filled with torch's weights.
        is_checked: whether the mapped model was run and every layer gave torch's output.
        ambiguous: what names and shapes leave open, in words; empty where running the model has decided it.
        missing: JAX's paths for which torch has nothing.
        unused: torch's parameters that no path takes.
        disagreeing: layers of the mapped model that are handed, or give, something else than torch's.
    """

    sources: dict[str, Source]
    params: Any
    is_checked: bool
    ambiguous: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    disagreeing: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every array has a source, every parameter of torch's a place, and nothing is open."""
        return not (self.ambiguous or self.missing or self.unused)

    def text(self) -> str:
        """Python to paste: a dict of functions of torch's weights, and what is left open."""
        lines = ["weights = {"]
        lines += [f'    "{path}": lambda w: {source.code()},' for path, source in self.sources.items()]
        lines.append("}")
        for what, entries in (
            ("ambiguous", self.ambiguous),
            ("only in JAX", self.missing),
            ("only in torch", self.unused),
        ):
            lines += [f"# {what}: {entry}" for entry in entries]
        checked = "every layer gives torch's output" if self.is_checked else "not checked: no layer was run"
        if self.disagreeing:
            checked = f"unlike torch's even so: {', '.join(self.disagreeing)}; compare_layers says why"
        return "\n".join([*lines, f"# {checked}"])
