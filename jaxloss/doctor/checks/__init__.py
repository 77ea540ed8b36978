"""The checks of a loss, in the order in which they run: name -> function."""

from collections.abc import Callable

from jaxloss.doctor.report import Result
from jaxloss.doctor.subject import Subject

CHECKS: dict[str, Callable[[Subject], Result]] = {}
