"""Random shapes, dtypes and options: what torch accepts is accepted, what it refuses is refused.

Torch is the oracle. Where jaxloss decides otherwise on purpose, `deliberate` names the row of the README's
table (parity_tests/divergences.py) that says so.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

from jaxloss import losses
from parity_tests.divergences import DIVERGENCES

SHAPES = [(), (1,), (3,), (2, 3), (2, 1), (1, 3), (2, 3, 4), (2, 4), (0, 3), (3, 2)]
# What each argument mostly is: numbers of the drawn shape; one number, sign or label for each row, the last
# axis left out; labels of the drawn shape; or weights, which may be left out.
PAIR = {"input": "numbers", "target": "numbers"}
CALLS = {
    "cross_entropy": {"input": "numbers", "target": "target", "weight": "weight of classes"},
    "nll_loss": {"input": "numbers", "target": "target", "weight": "weight of classes"},
    "l1_loss": PAIR,
    "mse_loss": PAIR,
    "smooth_l1_loss": PAIR,
    "huber_loss": PAIR,
    "kl_div": PAIR,
    "soft_margin_loss": PAIR,
    "hinge_embedding_loss": PAIR,
    "poisson_nll_loss": PAIR,
    "binary_cross_entropy": PAIR | {"weight": "weight"},
    "binary_cross_entropy_with_logits": PAIR | {"weight": "weight", "pos_weight": "weight"},
    "multilabel_soft_margin_loss": PAIR | {"weight": "weight"},
    "gaussian_nll_loss": PAIR | {"var": "rows or numbers"},
    "margin_ranking_loss": {"input1": "numbers", "input2": "numbers", "target": "numbers"},
    "multi_margin_loss": {"input": "numbers", "target": "labels of rows", "weight": "weight of classes"},
    "multilabel_margin_loss": {"input": "numbers", "target": "labels"},
    "cosine_embedding_loss": {"input1": "numbers", "input2": "numbers", "target": "rows"},
    "triplet_margin_loss": {"anchor": "numbers", "positive": "numbers", "negative": "numbers"},
}
OPTIONS = {
    "cross_entropy": {"label_smoothing": [-0.1, 0.0, 0.5, 1.0, 1.5]},
    "smooth_l1_loss": {"beta": [-1.0, 0.0, 2.0]},
    "huber_loss": {"delta": [-1.0, 0.0, 2.0]},
    "multi_margin_loss": {"p": [1, 2, 3], "margin": [-1.0, 0.5]},
    "triplet_margin_loss": {"p": [-1.0, 0.0, 1.0, 2.0, np.inf], "margin": [-1.0, 0.0, 2.0]},
    "gaussian_nll_loss": {"eps": [-1.0, 1e-6]},
}
WITH_CLASS_AXIS = ("cross_entropy", "nll_loss")
NUM_CALLS = 500


def draw_call(random: np.random.Generator) -> tuple[str, dict]:
    """A call that is more often right than wrong."""
    name = str(random.choice(list(CALLS)))
    shape = SHAPES[random.integers(len(SHAPES))]
    arguments = {}
    for argument, kind in CALLS[name].items():
        if kind.startswith("weight") and random.random() < 0.7:
            continue
        arguments[argument] = _draw_array(random, shape, kind, random.random() < 0.15)
    if random.random() < 0.2:
        arguments["reduction"] = random.choice(
            ["mean", "sum", "none", "avg", "batchmean", "elementwise_mean"]
        )
    for option, values in OPTIONS.get(name, {}).items():
        if random.random() < 0.3:
            arguments[option] = values[random.integers(len(values))]
    return name, arguments


def _draw_array(random: np.random.Generator, shape: tuple[int, ...], kind: str, is_odd: bool) -> np.ndarray:
    rows = shape[:1] + shape[2:] if kind == "target" else shape[:-1]
    is_label = kind.startswith("labels") or (kind == "target" and random.random() < 0.8)
    dtype = "int64" if is_label else "float64"
    if (
        kind in ("rows", "labels of rows")
        or (kind == "rows or numbers" and random.random() < 0.5)
        or (kind == "target" and is_label)
    ):
        shape = rows
    elif kind == "weight of classes":
        shape = (random.choice([2, 3, 4]),)
    elif kind == "weight":
        shape = shape[len(shape) - random.integers(len(shape) + 1) :]
    if random.random() < 0.12:
        shape = SHAPES[random.integers(len(SHAPES))]
    if is_odd:
        dtype = random.choice(["int64", "int32", "float32", "float64", "bool"])
    low, high = (0, 2) if is_label else (0.05, 1.0)
    return np.asarray(random.uniform(low, high, shape)).astype(dtype)


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
    arrays = {k: jnp.asarray(v) for k, v in arguments.items() if isinstance(v, np.ndarray)}
    options = {k: v for k, v in arguments.items() if k not in arrays}
    options |= {"axis": 1} if name in WITH_CLASS_AXIS else {}
    try:
        # Everything is checked while tracing, so there is nothing to compile.
        jax.eval_shape(lambda arrays: getattr(losses, name)(**arrays, **options), arrays)
    except (TypeError, ValueError):
        return False
    return True


def deliberate(name: str, arguments: dict, ours: bool) -> str | None:
    """The row of the table by which jaxloss decided `ours` and torch the opposite, if there is one."""
    arrays = {k: v for k, v in arguments.items() if isinstance(v, np.ndarray)}
    first = next(iter(arrays.values()))
    axis = 1 if name in WITH_CLASS_AXIS and first.ndim > 1 else -1
    of_labels = {k for k, kind in CALLS[name].items() if "label" in kind} & set(arrays)
    if name in WITH_CLASS_AXIS and (name == "nll_loss" or arrays["target"].shape != first.shape):
        of_labels.add("target")
    if ours:
        num_classes = first.shape[axis] if first.ndim else 1
        if any(arrays[k].size and arrays[k].max() >= num_classes for k in of_labels):
            return "label or length out of range"
        if any(arrays[k].dtype != np.int64 for k in of_labels):
            return "labels"
        if len({array.dtype for k, array in arrays.items() if k not in of_labels}) > 1:
            return "floating-point dtypes that differ"
        return "losses on margins and cosines" if first.ndim > 2 else None
    if any(array.dtype.kind != "f" for k, array in arrays.items() if k not in of_labels):
        return "integers or booleans in place of real numbers"
    if arguments.get("reduction") == "elementwise_mean":
        return "`size_average`, `reduce`"
    if min(arguments.get(option, 0.0) for option in ("label_smoothing", "eps", "p")) < 0:
        return "`label_smoothing`, `eps`, or the power `p` of a distance below 0"
    if name.startswith("triplet") and first.ndim == 0:
        return "`triplet_margin_loss` of scalars"
    rows = tuple(np.delete(first.shape, axis)) if first.ndim else ()
    of_rows = {k for k, kind in CALLS[name].items() if "rows" in kind or kind == "target"}
    # Numbers for each row may have an axis more, as probabilities and variances do; labels may not.
    fits = [
        (k in of_rows and array.shape == rows)
        or (k not in of_rows & of_labels and array.shape == first.shape)
        for k, array in arrays.items()
    ]
    return None if all(fits) else "shapes that differ"


def test_accepts_and_refuses_what_torch_does():
    random, rows = np.random.default_rng(0), {row.what for row in DIVERGENCES}
    unexplained, agreed = [], 0
    for _ in range(NUM_CALLS):
        name, arguments = draw_call(random)
        ours, theirs = accepted_by_us(name, arguments), accepted_by_torch(name, arguments)
        agreed += ours == theirs
        if ours == theirs:
            continue
        row = deliberate(name, arguments, ours)
        if row not in rows:
            described = {
                key: f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else value
                for key, value in arguments.items()
            }
            unexplained.append(f"{name}({described}): {'accepted' if ours else 'refused'} by jaxloss only")
    assert agreed > NUM_CALLS / 2
    assert not unexplained, "\n".join(unexplained)
