"""Torch's optimizers as arithmetic, to be changed one setting at a time until they do what JAX's does.

Shapes: S steps, W weights, all parameters in one row.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rule:
    """An optimizer of torch's, in float64.

    Args:
        kind: its class: "sgd", "adam", "rmsprop" or "adagrad".
        rates_SW: learning rates, with those of one step more than are taken.
        decay_W: of the weights.
        is_matrix_W: which weights are in an array of two axes or more.
        momentum: of the gradients; Adam's first beta.
        second: decay of their squares; Adam's second beta.
        eps: of the denominator.
        eps_place: "outside" the root, "inside", or "before" the bias correction.
        spares_vectors: whether only matrices decay.
        is_coupled: whether the weight decay is added to the gradient, as in L2 regularisation.
        nesterov: whether the momentum looks ahead; in Adam as optax has it.
        bias_correction: Adam's.
        dampening: what momentum takes off the gradient.
        dampens_first: whether it does in the first step too, which torch spares.
        accumulator: the first squares.
        max_norm: of all gradients together; None does not clip.
        clip_eps: added to their norm.
        clips_updates: whether the updates are clipped, not the gradients.
    """

    kind: str
    rates_SW: np.ndarray
    decay_W: np.ndarray
    is_matrix_W: np.ndarray
    momentum: float = 0.0
    second: float = 0.0
    eps: float = 0.0
    eps_place: str = "outside"
    spares_vectors: bool = False
    is_coupled: bool = True
    nesterov: bool = False
    bias_correction: bool = True
    dampening: float = 0.0
    dampens_first: bool = False
    accumulator: float = 0.0
    max_norm: float | None = None
    clip_eps: float = 1e-6
    clips_updates: bool = False

    def run(self, weights_W: np.ndarray, gradients_SW: np.ndarray) -> np.ndarray:
        """The weights after each step, [S, W]."""
        decay_W = np.where(self.is_matrix_W, self.decay_W, 0.0) if self.spares_vectors else self.decay_W
        first_W, second_W = np.zeros_like(weights_W), np.full_like(weights_W, self.accumulator)
        taken = []
        for step, gradient_W in enumerate(gradients_SW, 1):
            rate_W = self.rates_SW[step - 1]
            if not self.clips_updates:
                gradient_W = self._clipped(gradient_W)
            if self.is_coupled:
                gradient_W = gradient_W + decay_W * weights_W
            second_W = self._squares(second_W, gradient_W)
            if self.kind == "adam":
                first_W = self.momentum * first_W + (1 - self.momentum) * gradient_W
                direction_W = self._adams(first_W, second_W, gradient_W, step)
            else:
                scaled_W = gradient_W if self.kind == "sgd" else gradient_W / self._root(second_W)
                dampening = self.dampening if step > 1 or self.dampens_first else 0.0
                first_W = self.momentum * first_W + (1 - dampening) * scaled_W
                direction_W = scaled_W + self.momentum * first_W if self.nesterov else first_W
            if not self.is_coupled:
                direction_W = direction_W + decay_W * weights_W
            update_W = -rate_W * direction_W
            weights_W = weights_W + (self._clipped(update_W) if self.clips_updates else update_W)
            taken.append(weights_W)
        return np.stack(taken)

    def _squares(self, second_W: np.ndarray, gradient_W: np.ndarray) -> np.ndarray:
        if self.kind == "adagrad":
            return second_W + gradient_W**2
        return self.second * second_W + (1 - self.second) * gradient_W**2

    def _root(self, second_W: np.ndarray) -> np.ndarray:
        if self.eps_place == "inside":
            return np.sqrt(second_W + self.eps)
        return np.sqrt(second_W) + self.eps

    def _adams(
        self, first_W: np.ndarray, second_W: np.ndarray, gradient_W: np.ndarray, step: int
    ) -> np.ndarray:
        def corrected(beta: float, step: int) -> float:
            return 1 - beta**step if self.bias_correction else 1.0

        first_W = first_W / corrected(self.momentum, step + self.nesterov)
        if self.nesterov:
            newest_W = gradient_W / corrected(self.momentum, step)
            first_W = self.momentum * first_W + (1 - self.momentum) * newest_W
        correction = corrected(self.second, step)
        if self.eps_place == "before":
            return first_W * np.sqrt(correction) / self._root(second_W)
        return first_W / self._root(second_W / correction)

    def _clipped(self, array_W: np.ndarray) -> np.ndarray:
        if self.max_norm is None:
            return array_W
        return array_W * min(1.0, self.max_norm / (np.linalg.norm(array_W) + self.clip_eps))


@dataclass(frozen=True)
class Edit:
    """A change of one setting of a rule, and the words for it."""

    text: str
    changes: dict[str, Any]


def explain(
    rule: Rule, weights_W: np.ndarray, gradients_SW: np.ndarray, agrees: Callable[[np.ndarray], bool]
) -> str | None:
    """The fewest settings which, changed in torch's rule, give what JAX gave; None if there are none.

    Args:
        rule: torch's.
        weights_W: at the start.
        gradients_SW: of the steps.
        agrees: whether weights after the steps, [S, W], are JAX's.
    """

    def works(edits: tuple[Edit, ...]) -> bool:
        changed = replace(rule, **{name: x for edit in edits for name, x in edit.changes.items()})
        with np.errstate(all="ignore"):
            return agrees(changed.run(weights_W, gradients_SW))

    edits = [*_edits(rule)]
    tried = itertools.chain(
        ((edit,) for edit in edits),
        (
            pair
            for pair in itertools.combinations(edits, 2)
            if pair[0].changes.keys().isdisjoint(pair[1].changes)
        ),
        _of_optax(edits),
    )
    found = next((chosen for chosen in tried if works(chosen)), ())
    for edit in found:
        fewer = tuple(other for other in found if other is not edit)
        if fewer and works(fewer):
            found = fewer
    return "; ".join(edit.text for edit in found) or None


# optax's own, where torch's are others; tried all at once.
_OPTAX = {
    "adagrad": ("initial accumulator: JAX's is 0.1", "eps: JAX's is 1e-07", "eps: JAX adds it inside"),
    "rmsprop": ("decay of squares: JAX's is 0.9,", "eps: JAX adds it inside", "eps: JAX's is 1e-08"),
}


def _of_optax(edits: list[Edit]) -> Iterator[tuple[Edit, ...]]:
    for starts in _OPTAX.values():
        chosen = tuple(edit for edit in edits if edit.text.startswith(starts))
        if len(chosen) == len(starts):
            yield chosen


def _edits(rule: Rule) -> Iterator[Edit]:
    yield from _edits_of_decay(rule)
    yield from _edits_of_clipping(rule)
    if rule.kind == "adam":
        yield from _numbers(rule, "first beta", "momentum", (0.8, 0.9, 0.95))
        yield from _numbers(rule, "second beta", "second", (0.95, 0.98, 0.99, 0.999))
        text = "bias correction: only torch corrects the moments for their start at zero"
        yield Edit(text, {"bias_correction": False})
        text = "eps: JAX adds it to the root before the bias correction, torch after it"
        yield Edit(text, {"eps_place": "before"})
    else:
        yield from _numbers(rule, "momentum", "momentum", (0.0, 0.5, 0.8, 0.9, 0.95, 0.99))
    if rule.kind == "rmsprop":
        yield from _numbers(rule, "decay of squares", "second", (0.9, 0.95, 0.99, 0.999))
    if rule.kind == "adagrad":
        yield from _numbers(rule, "initial accumulator", "accumulator", (0.0, 0.1, 1.0))
    if rule.kind != "sgd":
        yield from _numbers(rule, "eps", "eps", (0.0, 1e-16, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3))
        text = "eps: JAX adds it inside the square root, torch outside"
        yield Edit(text, {"eps_place": "inside"})
    if rule.momentum:
        which = "only JAX's" if not rule.nesterov else "only torch's"
        text = f"Nesterov: {which} momentum looks ahead"
        yield Edit(text, {"nesterov": not rule.nesterov})
        if rule.kind == "sgd" and not rule.dampening:
            text = "dampening: JAX's momentum averages the gradients, torch's adds them up"
            yield Edit(text, {"dampening": rule.momentum, "dampens_first": True})
    for factor in (0.01, 0.1, 0.5, 2.0, 10.0, 100.0):
        text = f"learning rate: JAX's is {factor:g} times torch's"
        yield Edit(text, {"rates_SW": factor * rule.rates_SW})
    if not np.all(rule.rates_SW == rule.rates_SW[0]):
        text = "schedule: JAX's learning rate is one step {} torch's"
        ahead, behind = rule.rates_SW[1:], np.concatenate([rule.rates_SW[:1], rule.rates_SW[:-1]])
        yield Edit(text.format("ahead of"), {"rates_SW": ahead})
        yield Edit(text.format("behind"), {"rates_SW": behind})


def _edits_of_decay(rule: Rule) -> Iterator[Edit]:
    largest = float(np.max(rule.decay_W, initial=0.0))
    decayed_W = rule.decay_W > 0 if largest else np.ones_like(rule.is_matrix_W)
    for number in (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.1):
        if number != largest:
            text = f"weight decay: JAX's is {number:g}, torch's {largest:g}"
            yield Edit(text, {"decay_W": np.where(decayed_W, number, 0.0)})
    if not largest:
        return
    places = "adds it to the gradient (L2)", "takes it off the weights (decoupled)"
    ours, theirs = places[rule.is_coupled], places[not rule.is_coupled]
    text = f"weight decay: JAX {ours}, torch {theirs}"
    yield Edit(text, {"is_coupled": not rule.is_coupled})
    text = "weight decay: JAX's spares the arrays of one axis, such as biases and norms"
    yield Edit(text, {"spares_vectors": True})
    if not np.all(rule.decay_W):
        text = f"weight decay: JAX's is {largest:g} for all parameters, torch's for some"
        yield Edit(text, {"decay_W": np.full_like(rule.decay_W, largest)})


def _edits_of_clipping(rule: Rule) -> Iterator[Edit]:
    if rule.max_norm is None:
        for number in (0.1, 0.5, 1.0, 5.0):
            text = f"clipping: JAX clips gradients to norm {number:g}, torch not at all (max_norm=None)"
            yield Edit(text, {"max_norm": number, "clip_eps": 0.0})
        return
    text = f"clipping: only torch's gradients are clipped, to norm {rule.max_norm:g}"
    yield Edit(text, {"max_norm": None})
    if rule.clip_eps:
        text = f"clipping: torch adds {rule.clip_eps:g} to the norm, JAX nothing (clip_eps=0 allows it)"
        yield Edit(text, {"clip_eps": 0.0})
    text = "clipping: JAX clips the updates after the optimizer, torch the gradients before it"
    yield Edit(text, {"clips_updates": True, "clip_eps": 0.0})


def _numbers(rule: Rule, name: str, setting: str, numbers: tuple[float, ...]) -> Iterator[Edit]:
    own = getattr(rule, setting)
    for number in numbers:
        if number != own:
            text = f"{name}: JAX's is {number:g}, torch's {own:g}"
            yield Edit(text, {setting: number})


def read_rule(groups: list[dict[str, Any]], kind: str, **shared: Any) -> Rule | None:
    """The rule of torch's parameter groups; None for one that `Rule` does not have.

    Args:
        groups: the optimizer's settings for each group.
        kind: the name of its class.
        **shared: what else the rule has.
    """
    first = groups[0]
    others = ("betas", "eps", "momentum", "alpha", "nesterov", "dampening", "initial_accumulator_value")
    if any(group.get(name) != first.get(name) for group in groups for name in others):
        return None
    if any(first.get(name) for name in ("amsgrad", "centered", "maximize", "lr_decay")):
        return None
    both = {"eps": first.get("eps", 0.0), **shared}
    if kind == "SGD":
        settings = {name: first[name] for name in ("momentum", "dampening", "nesterov")}
        return Rule("sgd", **both, **settings)
    if kind in ("Adam", "AdamW"):
        momentum, second = map(float, first["betas"])
        coupled = kind == "Adam" and not first.get("decoupled_weight_decay", False)
        return Rule("adam", **both, momentum=momentum, second=second, is_coupled=coupled)
    if kind == "RMSprop":
        return Rule("rmsprop", **both, second=first["alpha"], momentum=first["momentum"])
    if kind == "Adagrad":
        return Rule("adagrad", **both, accumulator=first["initial_accumulator_value"])
    return None
