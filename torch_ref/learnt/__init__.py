"""Losses with parameters of their own, and the gradient that learns them, in plain PyTorch."""

from torch_ref.learnt.families import Family as Family
from torch_ref.learnt.families import gce as gce
from torch_ref.learnt.families import make_linear_family as make_linear_family
from torch_ref.learnt.families import mixture as mixture
from torch_ref.learnt.families import mlp as mlp
from torch_ref.learnt.families import taylor as taylor
from torch_ref.learnt.meta_step import make_meta_step as make_meta_step
