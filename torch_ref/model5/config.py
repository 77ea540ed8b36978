"""The sizes and options of Model 5: the same objects for both frameworks, in the same order."""

# ruff: noqa: I001
from jaxloss.model5.config import Activation as Activation
from jaxloss.model5.config import Model5Config as Model5Config
from jaxloss.model5.config import MODEL5 as MODEL5
from jaxloss.model5.config import GPT2 as GPT2
