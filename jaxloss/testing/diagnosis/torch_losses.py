"""Mistakes in a port of cross entropy, made in torch's calls."""

from collections.abc import Iterator

from jaxloss.testing.diagnosis.torch_calls import Call, Edit, with_option

_LABELS = (-100, -1, 0)


def another_ignored_label(call: Call) -> Iterator[Edit]:
    """Another label that is left out."""
    if call.name in ("cross_entropy", "nll_loss"):
        present = call.options().get("ignore_index", -100)
        for label in dict.fromkeys((present - 1, present + 1, *_LABELS)):
            if label != present:
                words = f"ignored label: JAX's ignore_index is {label}, torch's {present}"
                yield Edit(call.name, with_option("ignore_index", label), words)


def another_smoothing(call: Call) -> Iterator[Edit]:
    """Smoothing over all classes but the right one, as older formulas have it."""
    share = call.options().get("label_smoothing", 0.0) if call.name == "cross_entropy" else 0.0
    if not share:
        return
    num_classes = call.args[0].shape[1 if call.args[0].dim() > 1 else 0]
    if num_classes < 2:
        return

    # 1 - s on the right class and s / (C - 1) on each other is what torch has for s C / (C - 1).
    over_others = with_option("label_smoothing", min(share * num_classes / (num_classes - 1), 1.0))
    words = f"label smoothing: JAX spreads {share:g} over the {num_classes - 1} other classes, torch over all"
    yield Edit(call.name, over_others, words)
