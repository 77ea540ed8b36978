"""The checks of a loss, in the order in which they run: name -> function."""

from collections.abc import Callable

from jaxloss.doctor.checks import (
    curvature,
    finite,
    gradient,
    gradient_size,
    invariances,
    kinks,
    meaning,
    reductions,
    trains,
)
from jaxloss.doctor.report import Result
from jaxloss.doctor.subject import Subject

CHECKS: dict[str, Callable[[Subject], Result]] = {
    "finite": finite.check,
    "gradient": gradient.check,
    "gradient_size": gradient_size.check,
    "kinks": kinks.check,
    "curvature": curvature.check,
    "invariances": invariances.check,
    "reductions": reductions.check,
    "meaning": meaning.check,
    "trains": trains.check,
}
