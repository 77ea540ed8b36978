"""The examples in docstrings run; those of the losses run in test_public."""

import doctest
import importlib
import pkgutil

import pytest

ROOMS = [
    *("jaxloss.testing", "jaxloss.testing.layers", "jaxloss.model5"),
    *("jaxloss.training", "jaxloss.runs", "jaxloss.data"),
    *("torch_ref.model5", "torch_ref.training"),
]
MODULES = [
    module.name
    for room in ROOMS
    for module in pkgutil.iter_modules(importlib.import_module(room).__path__, f"{room}.")
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0
