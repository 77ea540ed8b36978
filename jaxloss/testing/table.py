"""Check several pairs of functions and put the errors side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxloss.testing.parity import check_parity
from jaxloss.testing.report import ParityReport, Table, table_of


@dataclass(frozen=True)
class Pair:
    """A JAX function, its torch counterpart, and what to call them with.

    Args:
        name: the row's first cell.
        jax_fn: see `assert_parity`.
        torch_fn: see `assert_parity`.
        inputs: see `assert_parity`.
        options: the keyword arguments of `assert_parity`.
    """

    name: str
    jax_fn: Callable[..., Any]
    torch_fn: Callable[..., Any]
    inputs: Sequence[Any]
    options: dict[str, Any] = field(default_factory=dict)

    def check(self, **options: Any) -> ParityReport:
        """Compare the two; the pair's own options go before those given here."""
        return check_parity(
            self.jax_fn, self.torch_fn, *self.inputs, **{**options, **self.options, "name": self.name}
        )


def parity_table(pairs: Sequence[Pair], **options: Any) -> Table:
    """Compare each pair and give a table of the errors, for people or for a README.

    A pair that disagrees has NO in the last column; nothing is raised for it.

    Args:
        pairs: what to compare.
        **options: keyword arguments of `assert_parity` for all pairs.

    Returns:
        The table: `print` shows it as text, `.markdown()` is Markdown. Errors are in eps of the largest
        entry.

    Raises:
        ValueError: there is no pair, or two have one name.

    >>> import jax.numpy as jnp, torch
    >>> from jaxloss.testing import normal
    >>> pairs = [Pair("square", jnp.square, torch.square, [normal(8)])]
    >>> print(parity_table(pairs, dtypes="float64"))
    function  dtype    value  gradient  JAX's own  torch's own  agree
    square    float64  0      0         -          -            yes
    """
    names = [pair.name for pair in pairs]
    if not names:
        raise ValueError("pairs must hold at least one pair")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"each pair needs a name of its own; used twice: {', '.join(twice)}")
    return table_of([pair.check(**options) for pair in pairs])
