"""The figures of a step on several devices, against what the layout has to send."""

import jax
import pytest

from jaxloss.model5 import Model5Config, num_params
from parity_tests.quick_compilation import OPTIONS
from parity_tests.scripts import load

script = load("scaling", "benchmarks")
CONFIG = Model5Config(vocab_size=32, context_length=4, embed_dim=16, num_heads=2, num_blocks=1, dropout=0.0)


def test_a_step_on_two_devices_halves_work_and_state_and_sends_what_the_layout_needs(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:2])
    monkeypatch.setattr(script, "QUICK", OPTIONS)
    cost = script.costs(CONFIG, "fsdp", 2)
    params, tokens = num_params(CONFIG), script.BATCH_SIZE * CONFIG.context_length
    assert 1 <= cost["flops"] / (6 * params * tokens / 2) < 1.5
    assert 0 <= cost["state"] - 4 * (3 * params + 2 * tokens) / 2 < 64  # averages too, and a key
    assert cost["others"] == 4 * params / 2  # each device lacks half of every parameter
    # Gradients, the embedding's from the head and from the input, and a few scalars.
    assert 0 < cost["all-reduce"] - 4 * (params + CONFIG.vocab_size * CONFIG.embed_dim) < 256


@pytest.mark.parametrize(
    ("operation", "sent"),
    [
        ("(f32[8,2]{1,0}, /*index=1*/bf16[]) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}", 66),
        ("f32[8]{0} all-gather(%a), replica_groups=[2,4]<=[8], dimensions={0}", 24),
        ("s32[8]{0} reduce-scatter(%a), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 96),
        ("f32[8]{0} all-to-all(%a), replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 28),
        ("f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}", 32),
    ],
)
def test_bytes_of_each_collective_are_those_of_a_ring(operation, sent):
    kind = operation.split("(%")[0].split()[-1]
    assert script.bytes_sent(f"  %x = {operation}, channel_id=1\n") == {kind: sent}


def test_groups_written_in_a_new_way_are_an_error():
    with pytest.raises(ValueError, match="new way: <0,1>"):
        script.group_size("<0,1>")
