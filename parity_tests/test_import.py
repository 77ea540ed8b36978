"""`import jaxloss` is light, and says nothing."""

import subprocess
import sys

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
