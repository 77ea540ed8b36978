"""Name the likely cause where values agree and gradients do not.

The two gradients, the cotangents and the inputs mostly say enough; else torch is run with a gradient stopped.
"""

from typing import Any

import numpy as np

from jaxloss.interop import is_tensor
from jaxloss.testing._problem import Evidence
from jaxloss.testing._result import Leaves, Result
from jaxloss.testing.diagnosis.factors import close, common_factor, explain_factor, number
from jaxloss.testing.diagnosis.torch_calls import Edit, trace
from jaxloss.testing.measure import EPS


def gradient_cause(name: str, evidence: Evidence) -> str | None:
    """The likely cause, in words; None when no known trap fits.

    Args:
        name: "gradient of input 0" or the like.
        evidence: of both sides.
    """
    ours, theirs = evidence.ours.gradients[name], evidence.theirs.gradients[name]
    what = f"the values agree, but the {name}"
    if not np.any(ours):
        return f"{what} is 0 in JAX: a stop_gradient, a rounding or an integer cast on the way"
    if not np.any(theirs):
        return f"{what} is 0 in torch: a detach(), .item() or no_grad() on the way"
    incoming = list(evidence.problem.cotangents.values())
    fits = len(incoming) == 1 and incoming[0].shape in ((), ours.shape)
    if fits and close(ours * incoming[0], theirs, evidence.dtype):
        return f"{what} ignores the incoming cotangent: a custom gradient must multiply by it"
    factor = common_factor({name: ours}, {name: theirs}, evidence.dtype)
    if factor is not None:
        words = explain_factor(factor, evidence.inputs, evidence.dtype)
        return f"{what} is off by a factor: {words or f'JAX is {number(factor)} times torch'}"
    largest = float(np.max(np.abs(theirs[np.isfinite(theirs)]), initial=0.0))
    apart = ~(np.abs(ours - theirs) <= 64 * EPS[evidence.dtype] * largest)
    at_kink = _kinks(name.removeprefix("gradient of "), Leaves.of(evidence.inputs).arrays())
    if at_kink is None or apart.all():
        return None
    where = f"{what} differs at {int(apart.sum())} of {apart.size} entries"
    if at_kink[apart].all():
        return f"{where}, all at zeros or ties: another subgradient is chosen at the kink"
    return f"{where} and agrees elsewhere: a branch or a mask treats these apart"


def stopped_gradient(evidence: Evidence) -> str | None:
    """A gradient that is stopped inside one side: torch is run with it stopped, or not stopped, there too."""
    side, dtype = evidence.problem.torch_side, evidence.dtype
    if side.is_recorded:
        return None

    def run(around: Any) -> Result:
        return side.run(evidence.inputs, evidence.params, dtype, evidence.problem.cotangents, around=around)

    def detached(function: Any, args: Any, kwargs: Any) -> Any:
        output = function(*args, **kwargs)
        return output.detach() if is_tensor(output) else output

    guesses = [
        Edit("detach", lambda f, args, kwargs: args[0], "torch stops a gradient by detach(), JAX does not")
    ]
    for call in trace(run):
        if call.name not in ("detach", "__get__", "requires_grad_"):
            words = f"JAX stops the gradient of what torch's {call.name} returns, as by stop_gradient"
            guesses.append(Edit(call.name, detached, words))
    for edit in guesses:
        try:
            found = run(edit.mode()).gradients
        # Without any gradient left, torch refuses.
        except Exception:
            continue
        if all(close(x, found[name], dtype) for name, x in evidence.ours.gradients.items()):
            return f"the values agree, but {edit.words}"
    return None


def _kinks(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """Where an input is zero, equal to another one, or the largest or smallest of its row."""
    if name not in arrays:
        return None
    array = arrays[name]
    at_kink = array == 0
    for other in arrays.values():
        if other is not array and other.shape == array.shape:
            at_kink |= array == other
    if array.ndim:
        at_kink |= (array == array.max(-1, keepdims=True)) | (array == array.min(-1, keepdims=True))
    return at_kink
