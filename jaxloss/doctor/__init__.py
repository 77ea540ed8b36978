"""A loss examined as a function, before anything is trained with it: see docs/examine.md."""

from jaxloss.doctor.examination import examine
from jaxloss.doctor.inputs import InputSpec
from jaxloss.doctor.report import Finding, Report

__all__ = ["Finding", "InputSpec", "Report", "examine"]
