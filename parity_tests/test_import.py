"""`import jaxloss` is light, and says nothing."""

import subprocess
import sys

import jaxloss

HEAVY = {
    "flax",
    "optax",
    "torch",
    "datasets",
    "tokenizers",
    "tiktoken",
    "matplotlib",
    "tqdm",
    "tyro",
    "safetensors",
}


def test_import_jaxloss_pulls_in_jax_and_nothing_heavier():
    program = f"import sys, jaxloss; print(sorted({HEAVY!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_every_loss_is_found_at_the_top():
    assert {*jaxloss.losses.__all__, *jaxloss.fused.__all__} == set(jaxloss.__all__)
    assert all(hasattr(jaxloss, name) for name in jaxloss.__all__)
