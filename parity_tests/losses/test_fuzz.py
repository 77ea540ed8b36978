"""Random shapes, dtypes and options: what torch accepts is accepted, what it refuses is refused.

Torch is the oracle. Where jaxloss differs on purpose, the difference stands in `DIFFERENCES`, which is also
the README's table.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jaxloss import losses

# What jaxloss decides otherwise than torch, and what it does then.
DIFFERENCES = {
    "labels of any integer dtype are accepted (torch: int64, uint8)": "accepts",
    "probabilities and weights of another floating dtype are promoted": "accepts",
    "shapes that differ raise instead of broadcasting": "refuses",
    "integer predictions and regression targets raise": "refuses",
    "smoothing below 0 raises instead of being ignored": "refuses",
    "a label out of range gives NaN, under jit and without": "accepts",
    "an unknown reduction always raises (torch reads None and some others)": "refuses",
}
NAMES = ["cross_entropy", "nll_loss", "l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "kl_div"]
NAMES += ["soft_margin_loss", "binary_cross_entropy_with_logits", "hinge_embedding_loss", "poisson_nll_loss"]
SHAPES = [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (2, 3, 4), (2, 4), (0, 3), (3, 2)]
NUM_CALLS = 300


def draw_call(random: np.random.Generator) -> tuple[str, dict]:
    """A call that is more often right than wrong."""
    name = random.choice(NAMES)
    shape = SHAPES[random.integers(len(SHAPES))]
    of_labels = name in ("cross_entropy", "nll_loss")
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    likely = rows if of_labels and random.random() < 0.8 else shape
    target_shape = likely if random.random() < 0.8 else SHAPES[random.integers(len(SHAPES))]
    target_dtype = "int64" if of_labels and target_shape == rows else "float64"
    if random.random() < 0.15:
        target_dtype = random.choice(["int64", "int32", "float32", "float64", "bool"])
    input_dtype = "float64" if random.random() < 0.9 else random.choice(["int64", "float32", "bool"])
    arguments = {
        "input": np.asarray(random.random(shape) * 2).astype(input_dtype),
        "target": np.asarray(random.integers(0, 2, target_shape)).astype(target_dtype),
    }
    if random.random() < 0.2:
        arguments["reduction"] = random.choice(["mean", "sum", "none", "avg", "batchmean"])
    if of_labels and random.random() < 0.3:
        arguments["weight"] = random.random(random.choice([2, 3, 4]))
    if name == "cross_entropy" and random.random() < 0.3:
        arguments["label_smoothing"] = float(random.choice([-0.1, 0.0, 0.5, 1.0, 1.5]))
    if name == "smooth_l1_loss" and random.random() < 0.3:
        arguments["beta"] = float(random.choice([-1.0, 0.0, 2.0]))
    if name == "huber_loss" and random.random() < 0.3:
        arguments["delta"] = float(random.choice([-1.0, 0.0, 2.0]))
    return name, arguments


def accepted_by_torch(name: str, arguments: dict) -> bool:
    tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(F, name)(**tensors)
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False
    return True


def accepted_by_us(name: str, arguments: dict) -> bool:
    arrays = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    options = {"axis": 1} if name in ("cross_entropy", "nll_loss") else {}
    traced = {k: v for k, v in arrays.items() if not isinstance(v, (str, float))}
    options |= {k: v for k, v in arrays.items() if k not in traced}
    try:
        # Everything is checked while tracing, so there is nothing to compile.
        jax.eval_shape(lambda traced: getattr(losses, name)(**traced, **options), traced)
    except (TypeError, ValueError):
        return False
    return True


def is_deliberate(name: str, arguments: dict, ours: bool) -> bool:
    """Does an entry of `DIFFERENCES` explain that jaxloss decided `ours` and torch the opposite?"""
    input, target = arguments["input"], arguments["target"]
    of_labels = name in ("cross_entropy", "nll_loss")
    if ours:
        num_classes = input.shape[1] if input.ndim > 1 else input.size
        out_of_range = of_labels and target.size and target.dtype.kind in "iu" and target.max() >= num_classes
        other_dtype = target.dtype != input.dtype if target.dtype.kind == "f" else target.dtype == np.int32
        promoted = "weight" in arguments and arguments["weight"].dtype != input.dtype
        return bool(out_of_range or other_dtype or promoted)
    broadcasts = not of_labels and input.shape != target.shape
    not_floating = input.dtype.kind != "f" or (not of_labels and target.dtype.kind != "f")
    negative = arguments.get("label_smoothing", 0.0) < 0
    return broadcasts or not_floating or negative or arguments.get("reduction") in ("avg", "batchmean")


def test_accepts_and_refuses_what_torch_does():
    random = np.random.default_rng(0)
    unexplained, agreed = [], 0
    for _ in range(NUM_CALLS):
        name, arguments = draw_call(random)
        ours, theirs = accepted_by_us(name, arguments), accepted_by_torch(name, arguments)
        agreed += ours == theirs
        if ours != theirs and not is_deliberate(name, arguments, ours):
            described = {
                key: f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else value
                for key, value in arguments.items()
            }
            unexplained.append(f"{name}({described}): {'accepted' if ours else 'refused'} by jaxloss only")
    assert agreed > NUM_CALLS / 2
    assert not unexplained, "\n".join(unexplained)


@pytest.mark.parametrize("text", DIFFERENCES)
def test_differences_are_a_list_of_sentences(text):
    assert DIFFERENCES[text] in ("accepts", "refuses")
