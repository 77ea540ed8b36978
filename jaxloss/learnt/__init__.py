"""Losses with parameters of their own, and the gradient that learns them: of how training with them ends.

A family is a pair `(params, loss)`, with `loss(params, y_hat, y)`; a function and its parameters of one's own
are a family too. `make_meta_step` needs optax, which comes with `jaxloss[train]`.
"""

from jaxloss.learnt.families import Family as Family
from jaxloss.learnt.families import gce as gce
from jaxloss.learnt.families import make_linear_family as make_linear_family
from jaxloss.learnt.families import mixture as mixture
from jaxloss.learnt.families import mlp as mlp
from jaxloss.learnt.families import taylor as taylor
from jaxloss.learnt.meta_step import make_meta_step as make_meta_step
