"""What a training step asks of its devices: operations, out of those they could do, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax

from jaxloss.model5.config import Model5Config

PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA B200": 2250e12,
    "TPU v2": 46e12 / 2,
    "TPU v3": 123e12 / 2,
    "TPU v4": 275e12,
    "TPU v4 lite": 138e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,
}
"""How a device's kind begins -> its bfloat16 operations a second, dense, as the makers publish them
(https://www.nvidia.com/en-us/data-center, of each product; https://cloud.google.com/tpu/docs, of each
version). A chip that JAX shows as two devices has half of them on each. V100 and T4 have no bfloat16."""


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """Operations a second of all devices together; None if the peak of one is not known."""
    total = 0.0
    for device in devices:
        kind = device.device_kind
        known = [name for name in PEAK_FLOPS if f"{kind}-".startswith((f"{name} ", f"{name}-"))]
        # A part of a GPU carries the name of the whole.
        if not known or " MIG " in kind:
            return None
        total += PEAK_FLOPS[max(known, key=len)]
    return total


def training_flops(config: Model5Config, num_crops: int, logits_to_keep: int | None = None) -> int:
    r"""Operations of one update, forward and back, that the model needs, whatever the program does.

    $$6 N + 12 L H Q T$$

    for a token: with the N parameters that are multiplied with (all but the position embeddings), L blocks, H
    heads of width Q and T tokens of context; a masked product counts, what remat computes again does not.
    With `logits_to_keep`, queries, attention and MLP of the last block and the head count for so many
    positions of a crop: a final-token step needs less, which is its merit and not its utilisation.

    Args:
        config: the model.
        num_crops: crops of `context_length` tokens in the batch.
        logits_to_keep: last positions of a crop that the loss looks at; None means all.

    Reference: Chowdhery et al. 2022, "PaLM", appendix B (https://arxiv.org/abs/2204.02311).

    >>> training_flops(Model5Config(), num_crops=1), training_flops(Model5Config(), 1, logits_to_keep=1)
    (197179342848, 128484154368)
    """
    width, length = config.embed_dim, config.context_length
    kept = length if logits_to_keep is None else logits_to_keep
    block = 12 * width**2 + 13 * width  # four matrices of attention, eight of the MLP, biases, LayerNorms
    keys_and_values = 2 * width * (width + 1)
    head = config.vocab_size * width + 2 * width
    scores = 12 * width * length
    each_token = (config.num_blocks - 1) * (6 * block + scores) + 6 * keys_and_values
    each_kept = 6 * (block - keys_and_values + head) + scores
    return num_crops * (length * each_token + kept * each_kept)


def memory_bytes(devices: Sequence[jax.Device]) -> int | None:
    """The most that one of these devices has held at once, in bytes.

    On CPU, what this process holds at the moment; None where the system does not tell.
    """
    stats = [device.memory_stats() for device in devices if device.process_index == jax.process_index()]
    peaks = [found["peak_bytes_in_use"] for found in stats if found and "peak_bytes_in_use" in found]
    if peaks:
        return max(peaks)
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    held = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return 1024 * int(held[0]) if held and devices[0].platform == "cpu" else None
