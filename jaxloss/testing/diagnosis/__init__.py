"""Name the likely cause of a disagreement. Only a failed comparison enters here, and nothing comes back."""

from jaxloss.testing._problem import Evidence
from jaxloss.testing.diagnosis.gradients import gradient_cause, stopped_gradient
from jaxloss.testing.diagnosis.values import value_cause
from jaxloss.testing.report import Comparison


def likely_cause(evidence: Evidence, comparisons: list[Comparison], agreed_in: str | None) -> str | None:
    """The first known trap that explains the failed comparisons, in words; None when none does.

    Args:
        evidence: of both sides.
        comparisons: the verdict on it.
        agreed_in: a wider dtype in which all was well; None where none was compared.
    """
    if evidence.mismatch is not None:
        return _of_shapes(evidence)
    if agreed_in is not None:
        return (
            f"precision: the two agree in {agreed_in}, so the formula is right, but JAX loses digits in "
            f"{evidence.dtype} (cancellation, as in mean(x^2) - mean(x)^2 or log(softmax(x)), or an "
            "intermediate in a narrower dtype)"
        )
    failed = [comparison.what for comparison in comparisons if not comparison.passed]
    if any(name in evidence.theirs.values for name in failed):
        return value_cause(evidence)
    return gradient_cause(failed[0], evidence) or stopped_gradient(evidence)


def _of_shapes(evidence: Evidence) -> str | None:
    names = evidence.mismatch_names
    if names is not None and names != [*evidence.theirs.values]:
        return "other names or another number of outputs: JAX and torch return different containers"
    if [value.shape for value in evidence.theirs.values.values()] == [()]:
        return "reduction: torch reduces to a scalar and JAX does not"
    is_scalar = (evidence.mismatch or "").split(";")[0].endswith("[]")
    return "reduction: JAX reduces to a scalar and torch does not" if is_scalar else None
