"""What `make_checked` looks at: values in arrays, on which a compiled program cannot raise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from jaxloss._checks import as_labels, labels_as_given
from jaxloss._mesh import whole_along

# True while a loss made by `make_checked` is called. JAX knows this context, and `jit` traces anew in it what
# it has traced without checks. `checkify.debug_check` would need no context, but it stays in every program: a
# call of a jitted function with one in it takes 170 us in place of 12 (jax 0.10.2, CPU).
checks_values = jax.make_user_context(False)


def check_labels(name: str, given, valid, high: int, low: int = 0, what: str = "labels") -> None:
    """Under `make_checked`, raise if a valid one of the `given` integers is outside `[low, high)`.

    Else do nothing. `valid` may lack the last axes; None is True everywhere.
    """
    if not checks_values.value:
        return
    labels, integers = as_labels(name, given), labels_as_given(given)
    is_wrong = (labels < low) | (labels >= high)
    # numpy's integers may be more than JAX can hold.
    shown = integers if isinstance(integers, np.ndarray) else labels
    _check(name, shown, labels, is_wrong, valid, f"outside [{low}, {high})", what)


def check_log_probabilities(name: str, given: jax.Array, rounding: float) -> None:
    """Under `make_checked`, raise if one of these numbers is above 0 by more than `rounding`."""
    if checks_values.value:
        _check(name, given, given, given > rounding, None, "above 0, as no log-probability is", "numbers")


def _check(name: str, shown, values: jax.Array, is_wrong: jax.Array, valid, wrong: str, what: str) -> None:
    # The first offender is found among all: on a mesh, each device looks at the whole.
    values, is_wrong = whole_along(values), whole_along(is_wrong)
    if valid is not None:
        is_wrong &= jnp.reshape(whole_along(valid), valid.shape + (1,) * (values.ndim - valid.ndim))
    if values.size == 0:
        return
    first = jnp.argmax(is_wrong.ravel())
    place = ", ".join(f"{{index_{i}}}" for i in range(values.ndim))
    indices: dict[str, Any] = {
        f"index_{i}": index for i, index in enumerate(jnp.unravel_index(first, values.shape))
    }
    is_numpys = isinstance(shown, np.ndarray) and not isinstance(is_wrong, jax.core.Tracer)
    value = str(shown.ravel()[int(first)]) if is_numpys else "{value}"
    checkify.check(
        ~jnp.any(is_wrong),
        f"{name}{f'[{place}]' if place else ''} is {value}, {wrong}; "
        f"{{num_wrong}} of {values.size} {what} are.",
        value=values.ravel()[first],
        num_wrong=jnp.sum(is_wrong),
        **indices,
    )
