"""Every tolerance of the suite, in one table, each with its reason.

"eps of max" is `max|actual - expected| / (eps * max|expected|)`: the error relative to the array's largest
entry. Elementwise relative error would be the wrong measure for parity, since some gradients are analytically
zero.
"""

from jaxloss.testing import EPS, measure

__all__ = ["EPS"]

# What users are given is what the suite holds itself to: 16 and 64, with the reason there.
VALUE_EPS_OF_MAX = measure.VALUE_EPS_OF_MAX["float64"]
GRADIENT_EPS_OF_MAX = measure.GRADIENT_EPS_OF_MAX["float64"]

# Torch's own error in the gradient of CTC, in float32 and in float64: it is the exponential of a difference
# of logarithms of about 150, which multiplies their relative error by as much. Measured up to 725 against 40
# digits, and 924 between the frameworks; ours is 5 (test_ctc.py).
CTC_GRADIENT_EPS_OF_MAX = 2048.0

# Against torch's corpora each bfloat16 result is compared with the float64 truth: the inputs' rounding is
# shared, the output's is ours, and the arithmetic between is float32. Half an ULP would be perfect.
BFLOAT16_ULP = 2.0

# Against mpmath's 50 digits, elementwise: the promise of the losses' docstrings.
ACCURATE_VALUE_ULP = 4.0
ACCURATE_GRADIENT_ULP = 64.0

# A divergence of two classes: two terms that are never negative, of which each has its softmax's rounding.
EXO_VALUE_ULP = 16.0

# What the two float32 parts of a logarithm leave of `log(p) - x`; `log(p)` alone is rounded to 2e-7.
LOG_MINUS_ERROR = 6e-15
