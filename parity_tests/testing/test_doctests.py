"""The examples in the harness's docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import jaxloss.testing

MODULES = [module.name for module in pkgutil.iter_modules(jaxloss.testing.__path__, "jaxloss.testing.")]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0
