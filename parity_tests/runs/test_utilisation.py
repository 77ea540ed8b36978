"""What a step is said to need and its devices to give."""

from types import SimpleNamespace

import pytest

from jaxloss.model5 import MODEL5, num_params
from jaxloss.runs.utilisation import peak_flops, training_flops


def test_all_tokens_need_6_flops_a_parameter_and_12_lhqt_for_attention():
    width, length = MODEL5.embed_dim, MODEL5.context_length
    token = 6 * (num_params(MODEL5) - length * width) + 12 * MODEL5.num_blocks * width * length
    assert training_flops(MODEL5, num_crops=3) == 3 * length * token


def test_kept_positions_all_are_no_saving_and_one_saves_head_and_last_block():
    length, whole = MODEL5.context_length, training_flops(MODEL5, 1)
    assert training_flops(MODEL5, 1, logits_to_keep=length) == whole
    width = MODEL5.embed_dim
    head = 6 * (MODEL5.vocab_size * width + 2 * width)
    block = 6 * (10 * width**2 + 11 * width) + 12 * width * length
    assert whole - training_flops(MODEL5, 1, logits_to_keep=1) == (length - 1) * (head + block)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("TPU v4 lite", 138e12),
        ("TPU v5", 459e12),
        ("TPU v5 lite", 197e12),
        ("NVIDIA L40", None),
        ("cpu", None),
    ],
)
def test_peak_is_that_of_all_devices_where_it_is_published(kind, expected):
    devices = [SimpleNamespace(device_kind=kind)] * 4
    assert peak_flops(devices) == (expected and 4 * expected)
