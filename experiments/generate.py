"""Text from a trained Model 5 or a GPT-2, written to the terminal as it comes.

    python experiments/generate.py runs/train_model5-20260101-120000 --prompt "I went on holiday to Liliput"
    python experiments/generate.py gpt2/ --prompt "Once upon a time" "The law" --top-p 0.9 --temperature 0.8
    python experiments/generate.py weights.safetensors --prompt-file prompts.txt --out texts.json

The first text is shown token by token; the others, which are written at the same time, after it. One prompt
and seed always give the same text, on one machine and for the same prompts beside it.
"""

if __name__ == "__main__":
    import interrupt  # noqa: F401

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from jaxloss._checks import check_integer, check_number
from jaxloss.data import Tokenizer
from jaxloss.model5 import generate
from jaxloss.runs.cli import run_cli
from jaxloss.runs.folder import to_json
from jaxloss.runs.text import decode_known
from jaxloss.runs.trained import load_trained


@dataclasses.dataclass(frozen=True)
class Config:
    """Continue prompts with a trained model."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a run, a .safetensors file, or a GPT-2 directory."""
    prompt: tuple[str, ...] = ()
    """What the texts begin with, one text for each; <|endoftext|> is the mark of a document's end."""
    prompt_file: str | None = None
    """File of prompts, one a line."""
    num_tokens: int = 100
    """Tokens added to each prompt, at most."""
    temperature: float = 1.0
    """Above 1 is bolder than the model, below 1 more cautious; 0 takes the likeliest token."""
    top_k: int | None = None
    """Draw from this many of the likeliest tokens only."""
    top_p: float | None = None
    """Draw from the fewest likeliest tokens that have this probability together."""
    stop: str | None = "<|endoftext|>"
    """A token at which a text ends; None to go on."""
    seed: int = 0
    """Decides what is drawn."""
    tokenizer: str | None = None
    """A tokenizer.json, gpt2 or bytes; the model's own if not given."""
    out: str | None = None
    """New JSON file for the texts."""

    def __post_init__(self) -> None:
        check_integer("--num-tokens", self.num_tokens, low=1)
        check_number("--temperature", self.temperature, low=0, open_high=True)
        if self.top_k is not None:
            check_integer("--top-k", self.top_k, low=1)
        if self.top_p is not None:
            check_number("--top-p", self.top_p, low=0, high=1, open_low=True)
        check_integer("--seed", self.seed, low=0, high=2**32 - 1)


def read_prompts(config: Config) -> list[str]:
    """The prompts of the command line, and then those of the file."""
    prompts = {f"--prompt {number}": text for number, text in enumerate(config.prompt, start=1)}
    if config.prompt_file is not None:
        lines = Path(config.prompt_file).read_bytes().splitlines()
        for number, line in enumerate(lines, start=1):
            if line.strip():
                # As Python hands over arguments: a byte that is not UTF-8 is a surrogate.
                text = line.decode("utf-8", "surrogateescape")
                prompts[f"--prompt-file {config.prompt_file}, line {number}"] = text
    if not prompts:
        raise ValueError("no prompt: give --prompt TEXT or --prompt-file FILE")
    for place, text in prompts.items():
        if not text:
            raise ValueError(f"{place} must not be empty: <|endoftext|> begins a new document")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            byte = ord(text[error.start]) & 0xFF
            raise ValueError(f"{place} is not UTF-8: character {error.start} is 0x{byte:02x}") from error
    return list(prompts.values())


def stop_token(text: str | None, tokenizer: Tokenizer) -> int | None:
    if text is None:
        return None
    ids = tokenizer.encode_marked(text)
    if len(ids) != 1:
        raise ValueError(f"--stop must be one token of the model's; {text!r} is {len(ids)}")
    return int(ids[0])


class Screen:
    """Shows a text as its tokens come, but for the bytes of a character that is not whole yet."""

    def __init__(self, tokenizer: Tokenizer, stop: int | None):
        self._tokenizer, self._stop, self._ids, self._num_shown = tokenizer, stop, [], 0

    def add(self, token_B: np.ndarray) -> None:
        if token_B[0] != self._stop:
            self._ids.append(int(token_B[0]))
            self.show(decode_known(self._tokenizer, self._ids).rstrip("\ufffd"))

    def show(self, text: str) -> None:
        print(text[self._num_shown :], end="", flush=True)
        self._num_shown = max(self._num_shown, len(text))


def heading(number: int, count: int) -> str:
    return f"# text {number} of {count}\n\n" if count > 1 else ""


def main(config: Config) -> int:
    prompts = read_prompts(config)
    if config.out is not None and Path(config.out).exists():
        raise ValueError(f"--out: {config.out} is there already: name a new file")
    params, model, tokenizer, _ = load_trained(config.model, tokenizer=config.tokenizer)
    if config.top_k is not None:
        check_integer("--top-k", config.top_k, low=1, high=model.vocab_size)
    stop = stop_token(config.stop, tokenizer)
    encoded = [tokenizer.encode_marked(prompt) for prompt in prompts]
    longest = max(map(len, encoded))
    for number, ids in enumerate(encoded, start=1):
        if len(ids) > model.context_length:
            print(
                f"prompt {number} has {len(ids)} tokens, more than the context of {model.context_length}: "
                "the model sees the last of them only",
                file=sys.stderr,
            )
    prompt_BT = np.stack([np.pad(ids.astype(np.int32), (longest - len(ids), 0)) for ids in encoded])
    screen = Screen(tokenizer, stop)
    print(heading(1, len(prompts)) + prompts[0], end="", flush=True)
    ids_BN = generate(
        params,
        model,
        prompt_BT,
        num_tokens=config.num_tokens,
        key=jax.random.key(config.seed),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        stop_token=stop,
        prompt_lengths=np.array([len(ids) for ids in encoded]),
        on_token=screen.add,
    )
    texts = []
    for prompt, new_N in zip(prompts, np.asarray(ids_BN)[:, longest:].tolist(), strict=True):
        new_N = new_N[: new_N.index(stop)] if stop in new_N else new_N
        texts.append({"prompt": prompt, "text": decode_known(tokenizer, new_N), "tokens": len(new_N)})
    screen.show(texts[0]["text"])
    for number, text in enumerate(texts[1:], start=2):
        print(f"\n\n{heading(number, len(texts))}{text['prompt']}{text['text']}", end="")
    print()
    if config.out is not None:
        Path(config.out).write_text(to_json(texts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main, Config))
