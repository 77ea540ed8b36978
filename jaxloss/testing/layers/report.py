"""What a comparison of two models found, layer by layer."""

from dataclasses import dataclass

from jaxloss.testing.report import Comparison, aligned, number


@dataclass(frozen=True)
class Fault:
    """An error that a layer makes by itself.

    Args:
        layer: JAX's name of it; empty for the model's own code, outside of all layers.
        torch_layer: torch's.
        where: what is wrong: the layer's output, what it hands to a layer inside it, or a gradient.
        comparison: the numbers.
        cause: the likely cause; None where undoing no known mistake makes the two agree.
    """

    layer: str
    torch_layer: str
    where: str
    comparison: Comparison
    cause: str | None

    def text(self) -> str:
        """The fault in up to three lines."""
        name = f"{self.layer} (torch: {self.torch_layer})" if self.layer else "the model's own code"
        lines = [f"{name}: {self.where}"]
        worst = self.comparison.difference
        if self.comparison.mismatch is None and worst is not None:
            lines.append(
                f"  JAX {worst.actual!r}, torch {worst.expected!r} at {list(worst.index)}; "
                f"{number(worst.eps_of_max)} eps of max, {number(self.comparison.allowed)} allowed"
            )
        if self.comparison.mismatch is None:
            lines.append(f"  likely cause: {self.cause or 'none of the known traps'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class LayerRow:
    """One layer of both models. Errors are in eps of the largest entry; None where nothing was compared.

    Args:
        layer: JAX's name of it.
        torch_layer: torch's.
        shape: of JAX's output.
        free: error of its output when each model runs on its own.
        own: error that it makes itself, given torch's input.
        free_gradient: error of the gradient of its output when each model runs on its own.
        own_gradient: error of the gradients that it passes back itself.
        is_faulty: whether its own error is more than rounding.
    """

    layer: str
    torch_layer: str
    shape: tuple[int, ...]
    free: float | None
    own: float | None
    free_gradient: float | None
    own_gradient: float | None
    is_faulty: bool


@dataclass(frozen=True)
class LayersReport:
    """The layers of two models, compared.

    Args:
        name: of the models.
        dtype: both computed in.
        rows: down the model.
        faults: the first one first; values before gradients.
        whole: the models' outputs.
        only_in_jax: layers compared only as a part of the layer around them.
        only_in_torch: the same on torch's side.
        not_compared: arrays of shared layers that were not.
    """

    name: str
    dtype: str
    rows: tuple[LayerRow, ...]
    faults: tuple[Fault, ...]
    whole: Comparison
    only_in_jax: tuple[str, ...]
    only_in_torch: tuple[str, ...]
    not_compared: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether layers were compared and all of them agree, and the outputs too."""
        return self._num_compared > 1 and not self.faults and self.whole.passed

    @property
    def _num_compared(self) -> int:
        return sum(0 not in row.shape for row in self.rows)

    def text(self) -> str:
        """The whole report, for people."""
        verdict = "agree" if self.passed else "DISAGREE"
        lines = [f"{self.name}: JAX and torch {verdict}; {len(self.rows)} layers compared in {self.dtype}"]
        for i, fault in enumerate(self.faults):
            lines.append(f"{'first fault' if i == 0 else 'also'}: {fault.text()}")
        if not self.faults and not self.whole.passed:
            said = (
                self.whole.mismatch
                or f"{number(self.whole.error)} eps of max, {number(self.whole.allowed)} allowed"
            )
            lines.append(f"no layer has an error of its own, but the {self.whole.what} differs: {said}")
        if len(self.rows) < 2:
            lines.append("no layer of one model was found in the other: pair them with names=")
        header = ["JAX", "torch", "shape", "as run", "own", "gradient as run", "own gradient", ""]
        rows = [
            [
                row.layer or "(output)",
                row.torch_layer or "(output)",
                str(list(row.shape)),
                *map(number, (row.free, row.own, row.free_gradient, row.own_gradient)),
                "<-" if row.is_faulty else "",
            ]
            for row in self.rows
        ]
        lines += ["errors in eps of the largest entry:", aligned([header, *rows])]
        for side, names in (("JAX", self.only_in_jax), ("torch", self.only_in_torch)):
            if names:
                lines.append(f"only in {side}, compared as a part of the layer around: {', '.join(names)}")
        if any(row.own_gradient is not None for row in self.rows):
            lines.append("gradients are those of activations; those of parameters are not compared")
        if self.not_compared:
            lines.append(f"not compared by themselves: {', '.join(self.not_compared)}")
        return "\n".join(lines)
