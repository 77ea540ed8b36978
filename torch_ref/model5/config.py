"""The sizes and options of Model 5: the same object for both frameworks."""

from jaxloss.model5.config import GPT2, MODEL5, Activation, Model5Config

__all__ = ["GPT2", "MODEL5", "Activation", "Model5Config"]
