"""Pair JAX's arrays with torch's parameters by name and shape."""

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeAlias

from jaxloss.testing.layers.weight_map import Source

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

# Names of one thing: the last parts of parameters, and what the layers of transformers are called.
_SAME = [
    {"weight", "kernel", "scale", "embedding", "w"},
    {"attention", "attn", "mha", "self"},
    {"norm", "layernorm", "ln", "rmsnorm"},
    {"mlp", "ffn", "feedforward", "ff"},
    {"q", "query", "wq"},
    {"k", "key", "wk"},
    {"v", "value", "wv"},
    {"o", "out", "output", "wo", "proj", "projection"},
    {"gate", "w1"},
    {"up", "w3", "fc", "fc1"},
    {"down", "w2", "fc2"},
    {"wte", "embed", "tok", "token", "tokens", "embeddings"},
    {"wpe", "pos", "position", "positions"},
    {"head", "lm", "unembed", "classifier"},
    {"final", "f", "last"},
    {"block", "blocks", "layers", "layer", "h"},
    {"conv", "convolution"},
]
_WORD = {word: min(words) for words in _SAME for word in words}


def pair_by_name(
    ours: Shapes, theirs: Shapes
) -> tuple[dict[str, Source], dict[str, list[str]], list[str], list[str]]:
    """Sources by JAX's path, all that fit where more than one does, and what is left over on either side.

    Args:
        ours: shapes of JAX's arrays by path.
        theirs: shapes of torch's parameters by name.
    """
    sources: dict[str, Source] = {}
    open_: dict[str, list[str]] = {}
    taken: set[str] = set()
    stacks = _stacks(ours, theirs)
    candidates: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {n: (s, (n,)) for n, s in theirs.items()}
    candidates.update(stacks)
    scores = {
        (path, name): _likeness(path, name)
        for path, shape in ours.items()
        for name, (other, members) in candidates.items()
        if _fits(path, shape, other, len(members) > 1)
        and _is_same_block(path, name)
        and _is_bias(path) == _is_bias(name)
        and statistic(path) == statistic(name)
    }
    best = sorted(scores, key=lambda pair: -scores[pair])
    for path, name in best:
        members = candidates[name][1]
        if path in sources or taken & set(members):
            continue
        rivals = [other for other in candidates if (path, other) in scores and other != name]
        if rivals and not _is_exact(path, name):
            open_[path] = [name, *rivals]
        sources[path] = _source(path, ours[path], candidates[name][0], members)
        taken |= set(members)
    missing = [path for path in ours if path not in sources]
    unused = [name for name in theirs if name not in taken]
    _split(ours, theirs, sources, missing, unused)
    _join(ours, theirs, sources, missing, unused)
    return {path: sources[path] for path in ours if path in sources}, open_, missing, unused


def _fits(path: str, ours: tuple[int, ...], theirs: tuple[int, ...], is_stack: bool) -> bool:
    if is_stack:
        return ours[:1] == theirs[:1] and _fits(path, ours[1:], theirs[1:], False)
    return any(tuple(theirs[i] for i in axes) == ours for axes in _orders(path, len(theirs)))


def _orders(path: str, rank: int) -> list[tuple[int, ...]]:
    """Orders of torch's axes, the likely first: a Linear's or a convolution's kernel is [out, in, ...]."""
    same = tuple(range(rank))
    if rank < 2 or not _is_kernel(path):
        return [same]
    return [(*range(2, rank), 1, 0), same]


def _source(path: str, ours: tuple[int, ...], theirs: tuple[int, ...], names: tuple[str, ...]) -> Source:
    join = "stack" if len(names) > 1 else None
    shape = theirs[1:] if join else theirs
    wanted = ours[1:] if join else ours
    for axes in _orders(path, len(shape)):
        if tuple(shape[i] for i in axes) == wanted:
            return Source(names, None if axes == tuple(range(len(shape))) else axes, join)
    raise AssertionError("a pair that does not fit")


def is_square_kernel(path: str, shape: tuple[int, ...]) -> bool:
    """Whether an array's shape does not say if it is transposed."""
    return _is_kernel(path) and len(shape) >= 2 and shape[-1] == shape[-2]


def _is_kernel(path: str) -> bool:
    """Whether Flax's or Haiku's word for an array that is [in, out] ends the path."""
    return path.rpartition("/")[2] in ("kernel", "w")


def _stacks(ours: Shapes, theirs: Shapes) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
    """Torch's parameters of all blocks as one array, where JAX has no numbered blocks."""
    if any(_numbers(path) for path in ours):
        return {}
    groups: dict[str, dict[int, str]] = defaultdict(dict)
    for name in theirs:
        found = re.search(r"\.(\d+)\.", name)
        if found:
            groups[name.replace(found[0], ".", 1)][int(found[1])] = name
    stacks = {}
    for pattern, members in groups.items():
        names = tuple(members[i] for i in sorted(members))
        stacks[pattern] = ((len(names), *theirs[names[0]]), names)
    return stacks


def _split(
    ours: Shapes, theirs: Shapes, sources: dict[str, Source], missing: list[str], unused: list[str]
) -> None:
    """Parts of a fused projection, in the order of queries, keys, values."""
    for name in list(unused):
        for axes in _orders("kernel" if len(theirs[name]) > 1 else "bias", len(theirs[name])):
            whole = tuple(theirs[name][i] for i in axes)
            parts = sorted(
                (p for p in missing if _is_like(p, name) and ours[p][:-1] == whole[:-1]), key=_fused_order
            )
            ends = list(itertools.accumulate(ours[p][-1] for p in parts))
            if len(parts) < 2 or ends[-1] != whole[-1]:
                continue
            for p, end in zip(parts, ends, strict=True):
                part = (len(whole) - 1, end - ours[p][-1], end)
                sources[p] = Source((name,), None if axes == tuple(range(len(whole))) else axes, None, part)
                missing.remove(p)
            unused.remove(name)
            break


def _join(
    ours: Shapes, theirs: Shapes, sources: dict[str, Source], missing: list[str], unused: list[str]
) -> None:
    """A fused projection of several, in the same order."""
    for path in list(missing):
        last = len(ours[path]) - 1
        names = sorted((n for n in unused if _is_like(path, n)), key=_fused_order)
        shapes = [theirs[n] for n in names]
        for axes in _orders(path, last + 1) if len(names) > 1 else []:
            turned = [tuple(shape[i] for i in axes) for shape in shapes if len(shape) == last + 1]
            if len(turned) < len(names) or any(shape[:-1] != ours[path][:-1] for shape in turned):
                continue
            if sum(shape[-1] for shape in turned) == ours[path][-1]:
                sources[path] = Source(tuple(names), None if axes == tuple(range(last + 1)) else axes, last)
                missing.remove(path)
                for name in names:
                    unused.remove(name)
                break


def _is_like(path: str, name: str) -> bool:
    """Whether a part and a whole are of one block, and both biases or both not."""
    return _is_bias(path) == _is_bias(name) and _numbers(path)[:1] == _numbers(name)[:1]


def statistic(name: str) -> str:
    """Which running statistic of a BatchNorm an array is, in Flax or torch: "mean", "var" or none."""
    leaf = name.replace("/", ".").rpartition(".")[2].removeprefix("running_")
    return leaf if leaf in ("mean", "var") else ""


def _is_bias(name: str) -> bool:
    return name.replace("/", ".").rpartition(".")[2] in ("bias", "b")


def _fused_order(name: str) -> int:
    """Queries, keys, values; a gate before what it gates."""
    words = _words(name)
    order = ("q", "k", "v", "gate", "fc")
    return next((i for i, word in enumerate(order) if _WORD.get(word, word) in words), len(order))


def _likeness(path: str, name: str) -> float:
    """How much two names share, between 0 and 1; the layer's own words count more than those around it."""
    a, b = _words(path), _words(name)
    common = sum((i + 1) for i, word in enumerate(a) if word in b)
    other = sum((i + 1) for i, word in enumerate(b) if word in a)
    most = sum(range(len(a) + 1)) + sum(range(len(b) + 1))
    return (common + other) / most


def _is_exact(path: str, name: str) -> bool:
    """Whether torch's name ends in the whole of JAX's."""
    a, b = (re.split(r"[._/]+", x.lower()) for x in (path.rpartition("/")[0], name.rpartition(".")[0]))
    return bool(a) and b[-len(a) :] == a


def _words(name: str) -> list[str]:
    parts = re.split(r"[._/]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    # Haiku's bias; a layer may be called "b" too.
    parts[-1] = "bias" if parts[-1] == "b" else parts[-1]
    words = [_WORD.get(part, part) for part in parts]
    return [word for word in words if word and not word.isdigit() and word != "c"]


def _numbers(name: str) -> tuple[int, ...]:
    """A block's number, and others in a name."""
    return tuple(int(part) for part in re.split(r"[._/]+", name) if part.isdigit())


def _is_same_block(path: str, name: str) -> bool:
    """Whether the numbers are the same, as far as both names have any: `Dense_0` numbers what torch names."""
    return all(a == b for a, b in zip(_numbers(path), _numbers(name), strict=False))
