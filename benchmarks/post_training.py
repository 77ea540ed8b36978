"""DPO and GRPO from hidden states and a head, value and gradients: jaxloss against its peers, side by side.

    python benchmarks/post_training.py [--sizes 4096x768x50257] [--rounds 5]

A size is tokens x width x vocabulary; the tokens are 16 sequences: 8 pairs of answers for DPO, one group for
GRPO. Log-probabilities of other policies are given; those of DPO's reference are 0, since Liger-Kernel takes
its hidden states only. Liger-Kernel has its default chunks, a pair or a sequence, and compiles nothing.

Before anything is timed, value and gradients of all contenders must agree. They take turns in one process,
round after round, so that a busy machine slows all of them alike; the table gives the median time, its spread
(the middle half of the rounds), the rounds' own ratios of the first contender's time to this one's, and the
memory beyond inputs and outputs. JAX's memory is the compiler's own figure; PyTorch's is the growth of the
resident set in a process of its own. On 2 CPU cores the size takes about ten minutes.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _contenders import (
    ask_own_process,
    jax_step,
    middle_half,
    ratios,
    take_turns,
    torch_megabytes,
    torch_step,
)

from jaxloss import (
    clipped_policy_loss,
    cross_entropy,
    dpo_loss,
    group_advantages,
    linear_log_prob,
    linear_sequence_logps,
    make_linear_loss,
    make_linear_preference_loss,
    sampled_kl_div,
)

NUM_SEQUENCES, DPO_BETA, KL_WEIGHT, CLIP = 16, 0.1, 0.04, 0.2
# Float32 keeps the log-probability of 256 tokens, about -2,800, to 2e-4; times beta, and doubled by the
# difference of two answers, that is the error of DPO's margin, and so of its gradients.
TOLERANCE = 1e-4


def problem(size: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Hidden states, head, tokens, mask, old and reference log-probabilities of tokens, advantages."""
    num_tokens, width, vocabulary = size
    rng, length = np.random.default_rng(0), num_tokens // NUM_SEQUENCES
    hidden = rng.standard_normal((NUM_SEQUENCES, length, width), np.float32)
    head = 0.02 * rng.standard_normal((vocabulary, width), np.float32)
    tokens = rng.integers(0, vocabulary, (NUM_SEQUENCES, length))
    # Answers of a pair are of one length, so that no margin is beyond what the sigmoid tells apart.
    lengths = np.tile(rng.integers(max(1, length // 2), length + 1, NUM_SEQUENCES // 2), 2)
    logps = [
        np.asarray(jax.nn.log_softmax(x @ head.T))[np.arange(length), y]
        for x, y in zip(hidden, tokens, strict=True)
    ]
    # Log-ratios away from those at which a token is clipped, where rounding would decide on its gradient.
    old_logps, ref_logps = (
        np.array(logps) - rng.choice([-0.3, -0.1, 0.1, 0.3], tokens.shape).astype(np.float32)
        for _ in range(2)
    )
    advantages = group_advantages(rng.standard_normal(NUM_SEQUENCES, np.float32), NUM_SEQUENCES)
    mask = np.arange(length) < lengths[:, None]
    return hidden, head, tokens, mask, old_logps, ref_logps, np.array(advantages)


linear_dpo = make_linear_preference_loss(dpo_loss)


def jaxloss_dpo(hidden, head, tokens, mask, *_):
    reference = jnp.zeros(NUM_SEQUENCES // 2, jnp.float32)
    return linear_dpo(hidden, head, tokens, reference, reference, where=mask, beta=DPO_BETA)


def jaxloss_dpo_of_logps(hidden, head, tokens, mask, *_):
    chosen, rejected = jnp.split(linear_sequence_logps(hidden, head, tokens, where=mask), 2)
    return dpo_loss(chosen, rejected, jnp.zeros_like(chosen), jnp.zeros_like(rejected), beta=DPO_BETA)


def grpo_of_tokens(logps, old_logps, ref_logps, advantages, where=None):
    policy = clipped_policy_loss(logps, old_logps, advantages, reduction="none", where=where)
    return policy + KL_WEIGHT * sampled_kl_div(logps, ref_logps, reduction="none", where=where)


@make_linear_loss
def linear_grpo(logits, tokens, old_logps, ref_logps, advantages):
    logps = -cross_entropy(logits, tokens, reduction="none")
    return grpo_of_tokens(logps, old_logps, ref_logps, advantages)


def jaxloss_grpo(hidden, head, tokens, mask, old_logps, ref_logps, advantages):
    share = jnp.broadcast_to(1 / mask.sum(1, keepdims=True) / NUM_SEQUENCES, mask.shape)
    of_tokens = tokens, old_logps, ref_logps, jnp.broadcast_to(advantages[:, None], mask.shape)
    return linear_grpo(hidden, head, *of_tokens, where=mask, sample_weight=share, reduction="sum")


def jaxloss_grpo_of_logps(hidden, head, tokens, mask, old_logps, ref_logps, advantages):
    logps = linear_log_prob(hidden, head, tokens, where=mask)
    losses = grpo_of_tokens(logps, old_logps, ref_logps, advantages, mask)
    return jnp.mean(losses.sum(1) / mask.sum(1))


def plain_dpo(log_sigmoid, logps, mask, *_):
    of_sequences = (logps * mask).sum(1)
    chosen, rejected = of_sequences[: NUM_SEQUENCES // 2], of_sequences[NUM_SEQUENCES // 2 :]
    return -log_sigmoid(DPO_BETA * (chosen - rejected)).mean()


def plain_grpo(xp, logps, mask, old_logps, ref_logps, advantages):
    ratio, advantage = xp.exp(logps - old_logps), advantages[:, None]
    policy = -xp.minimum(ratio * advantage, xp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
    kl = xp.exp(ref_logps - logps) - (ref_logps - logps) - 1
    return (((policy + KL_WEIGHT * kl) * mask).sum(1) / mask.sum(1)).mean()


def optax_whole(loss, hidden, head, tokens, *others):
    import optax

    return loss(-optax.softmax_cross_entropy_with_integer_labels(hidden @ head.T, tokens), *others)


def torch_whole(loss, hidden, head, tokens, *others):
    from torch.nn.functional import cross_entropy

    logits = hidden @ head.T
    losses = cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    return loss(-losses.view(tokens.shape), *others)


def torch_dpo(*arguments):
    from torch.nn.functional import logsigmoid

    return torch_whole(partial(plain_dpo, logsigmoid), *arguments)


def torch_grpo(*arguments):
    import torch

    return torch_whole(partial(plain_grpo, torch), *arguments)


def liger_dpo(hidden, head, tokens, mask, *_):
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    loss = LigerFusedLinearDPOLoss(beta=DPO_BETA, use_ref_model=False, compiled=False)
    return loss(head, hidden, tokens.masked_fill(~mask, -100))[0]


def liger_grpo(hidden, head, tokens, mask, old_logps, ref_logps, advantages):
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    bounds = {"epsilon_low": CLIP, "epsilon_high": CLIP}
    loss = LigerFusedLinearGRPOLoss(beta=KL_WEIGHT, loss_type="grpo", compiled=False, **bounds)
    given = {"ref_per_token_logps": ref_logps, "old_per_token_logps": old_logps}
    return loss(hidden, head, tokens, mask, advantages, **given)[0]


JAX_LOSSES: dict[str, dict[str, Callable]] = {
    "DPO": {
        "jaxloss, make_linear_preference_loss": jaxloss_dpo,
        "jaxloss, linear_sequence_logps": jaxloss_dpo_of_logps,
        "JAX + optax, logits whole": partial(optax_whole, partial(plain_dpo, jax.nn.log_sigmoid)),
    },
    "GRPO": {
        "jaxloss, make_linear_loss": jaxloss_grpo,
        "jaxloss, linear_log_prob": jaxloss_grpo_of_logps,
        "JAX + optax, logits whole": partial(optax_whole, partial(plain_grpo, jnp)),
    },
}
TORCH_LOSSES: dict[str, dict[str, Callable]] = {
    "DPO": {"torch, logits whole": torch_dpo, "Liger-Kernel": liger_dpo},
    "GRPO": {"torch, logits whole": torch_grpo, "Liger-Kernel": liger_grpo},
}


def has_liger() -> bool:
    try:
        import liger_kernel.chunked_loss  # noqa: F401
    except ImportError as error:
        print(f"Liger-Kernel is left out: {error} (pip install --no-deps liger-kernel)")
        return False
    return True


def check_agreement(loss: str, steps: dict[str, Callable]) -> None:
    """Exit unless value and gradients of all are those of the first, relative to the largest."""
    (first, step), *others = steps.items()
    expected = [np.asarray(array) for array in jax.tree.leaves(step())]
    for name, step in others:
        results = zip(("value", "hidden states", "head"), jax.tree.leaves(step()), expected, strict=True)
        for what, found, wanted in results:
            error = np.max(np.abs(np.asarray(found) - wanted)) / np.max(np.abs(wanted))
            if not error <= TOLERANCE:
                which = what if what == "value" else f"gradient to the {what}"
                sys.exit(f"{loss}: {name} and {first} differ by {error:.1e} in the {which}: nothing is timed")


def measure(loss: str, size: Sequence[int], torch_names: Sequence[str], rounds: int) -> None:
    arrays, text = problem(size), "x".join(map(str, size))
    steps, megabytes = {}, {}
    for name, function in JAX_LOSSES[loss].items():
        value_and_grad = jax.value_and_grad(function, (0, 1))
        steps[name], megabytes[name] = jax_step(value_and_grad, *map(jnp.asarray, arrays))
    for name in torch_names:
        steps[name] = torch_step(TORCH_LOSSES[loss][name], *arrays)
        megabytes[name] = ask_own_process(__file__, "--memory-of", loss, name, "--sizes", text)
    check_agreement(loss, steps)
    seconds = take_turns(steps, rounds)
    first, *_ = steps
    print(f"\n{loss}, tokens x width x vocabulary {text}, float32, {rounds} rounds\n")
    print("| | ms | middle half | jaxloss's time / this one's | MB |\n|---|---:|---:|---:|---:|")
    for name in steps:
        low, middle, high = (1e3 * second for second in middle_half(seconds[name]))
        least, ratio, most = ratios(seconds[first], seconds[name])
        ratio_text = "" if name == first else f"{ratio:.2f} ({least:.2f} to {most:.2f})"
        spread = f"{low:,.0f} - {high:,.0f}"
        print(f"| {name} | {middle:,.0f} | {spread} | {ratio_text} | {megabytes[name]:,.0f} |", flush=True)


def as_size(text: str) -> tuple[int, ...]:
    try:
        num_tokens, width, vocabulary = map(int, text.split("x"))
    except ValueError:
        num_tokens = width = vocabulary = 0
    if min(num_tokens, width, vocabulary) < 1 or num_tokens % NUM_SEQUENCES:
        rule = f"tokens x width x vocabulary, the tokens a multiple of {NUM_SEQUENCES}"
        raise argparse.ArgumentTypeError(f"must be {rule}, as 4096x768x50257; got {text!r}")
    return num_tokens, width, vocabulary


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=as_size, default=[(4096, 768, 50257)], help="N x D x V")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {given.rounds}")
    if given.memory_of:
        loss, name = given.memory_of
        print(torch_megabytes(torch_step(TORCH_LOSSES[loss][name], *problem(given.sizes[0]))))
        return
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    liger = has_liger()
    for size in given.sizes:
        for loss, names in TORCH_LOSSES.items():
            measure(loss, size, [name for name in names if liger or name != "Liger-Kernel"], given.rounds)


if __name__ == "__main__":
    main()
