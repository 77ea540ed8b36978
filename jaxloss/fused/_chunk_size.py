"""How many tokens a chunk of a linear head's loss holds, measured for each backend."""

import math

import jax

from jaxloss import _checks
from jaxloss.fused._chunked import Chunks

# CPU: sixteen chunks or more, and chunks of 128 tokens or more, so that matrix products stay near their
# full rate; 2^24 logits (64 MB) at most. Accelerators want larger products.
_MIN_TOKENS = {"cpu": 128}
_MIN_CHUNKS = {"cpu": 16}
_MAX_LOGITS = {"cpu": 2**24}
# A product that fills a block of the weight's gradient; an accelerator's matrix product adds in place.
_WEIGHT_ROWS = {"cpu": 4096}


def make_chunks(shape: tuple[int, ...], vocabulary: int, chunk_size, axis_name: str | None = None) -> Chunks:
    """The chunks for tokens of this shape, of at most `chunk_size` tokens if it is given.

    A number of chunks that divides what follows the leading axis leaves a batch that is sharded there as it
    lies; one that divides the number of tokens needs no padding.
    """
    num_tokens, backend = math.prod(shape), jax.default_backend()
    if chunk_size is None:
        largest = max(_MIN_TOKENS.get(backend, 1024), _MAX_LOGITS.get(backend, 2**27) // vocabulary)
        chunk_size = min(
            largest, max(_MIN_TOKENS.get(backend, 1024), num_tokens // _MIN_CHUNKS.get(backend, 1))
        )
        chunk_size = 2 ** math.floor(math.log2(chunk_size))
    elif _checks.check_integer("chunk_size", chunk_size) < 1:
        raise ValueError(f"chunk_size must be at least 1; got {chunk_size}.")
    fewest = max(1, math.ceil(num_tokens / chunk_size))
    num_chunks = fewest
    for unit in (num_tokens // shape[0] if len(shape) > 1 and num_tokens else 1, num_tokens):
        divisors = [n for n in range(fewest, min(2 * fewest, unit) + 1) if unit % n == 0]
        if divisors:
            num_chunks = divisors[0]
            break
    return Chunks(num_chunks, _WEIGHT_ROWS.get(backend, vocabulary), axis_name)
