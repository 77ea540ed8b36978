"""Mistakes in a port of attention or of an activation function, made in torch's calls."""

from collections.abc import Callable, Iterator
from typing import Any

from jaxloss.testing.diagnosis.torch_calls import Call, Edit, with_argument

# How torch's functional module spells each activation function, and how one says it.
_FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "the exact (erf) GELU": ("gelu", {"approximate": "none"}),
    "the tanh approximation of GELU": ("gelu", {"approximate": "tanh"}),
    **{
        name: (name, {})
        for name in ("silu", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "softplus", "mish")
    },
}


def activations() -> dict[str, Callable[[Any], Any]]:
    """Activation functions of torch by the name to say."""
    from torch.nn import functional

    def form(name: str, options: dict[str, Any]) -> Callable[[Any], Any]:
        return lambda x: getattr(functional, name)(x, **options)

    return {words: form(*entry) for words, entry in _FORMS.items()}


def another_activation(call: Call) -> Iterator[Edit]:
    """Another function in place of an activation function; the forms of GELU have a trap of their own."""
    names = {name for name, _ in _FORMS.values()}
    if call.name not in names or call.name == "gelu":
        return
    for words, function in activations().items():
        if words != call.name:

            def rewrite(original: Any, args: Any, kwargs: Any, function: Any = function) -> Any:
                return function(args[0] if args else kwargs["input"])

            yield Edit(call.name, rewrite, f"activation: JAX's is {words}, torch's {call.name}")


def another_mask(call: Call) -> Iterator[Edit]:
    """Attention to every position, or to none after its own."""
    if not _is_attention(call):
        return

    def unmasked(function: Any, args: Any, kwargs: Any) -> Any:
        return function(*args[:3], **{**kwargs, "attn_mask": None, "is_causal": False})

    def causal(function: Any, args: Any, kwargs: Any) -> Any:
        return function(*args[:3], **{**kwargs, "attn_mask": None, "is_causal": True})

    yield Edit(call.name, unmasked, "mask: JAX's attention sees every position, torch's is masked")
    yield Edit(call.name, causal, "mask: JAX's attention is causal, torch's has another mask or none")


def another_axis(call: Call) -> Iterator[Edit]:
    """Attention weights that sum to 1 over the queries."""
    if not _is_attention(call):
        return

    def over_queries(function: Any, args: Any, kwargs: Any) -> Any:
        import torch

        q, k, v = args[:3]
        if kwargs.get("enable_gqa"):
            k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
        scores = q @ k.transpose(-1, -2) * (kwargs.get("scale") or q.shape[-1] ** -0.5)
        hidden = torch.full_like(scores, -1e30)
        mask = kwargs.get("attn_mask")
        if kwargs.get("is_causal"):
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if mask is not None:
            scores = torch.where(mask, scores, hidden) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-2) @ v

    yield Edit(call.name, over_queries, "wrong axis: JAX's softmax of the attention is over the queries")


def another_head(call: Call) -> Iterator[Edit]:
    """Keys and values in the order of other heads, or swapped with one another or with the queries."""
    if not _is_attention(call):
        return
    queries, keys = call.args[0], call.args[1]
    num_heads, num_given = (x.shape[-3] if x.dim() > 2 else 1 for x in (queries, keys))
    for num_own in [n for n in range(2, num_heads) if num_heads % n == 0 and num_given in (n, num_heads)]:

        def tiled(function: Any, args: Any, kwargs: Any, num_own: int = num_own) -> Any:
            step = num_given // num_own
            order = [(head % num_own) * step for head in range(num_heads)]
            return function(
                args[0], *(x[..., order, :, :] for x in args[1:3]), **{**kwargs, "enable_gqa": False}
            )

        words = f"key heads: JAX tiles the {num_own} of them, torch repeats each in its place"
        yield Edit(call.name, tiled, words)
    for (i, j), which in {
        (0, 1): "queries and keys",
        (1, 2): "keys and values",
        (0, 2): "queries and values",
    }.items():
        if call.args[i].shape == call.args[j].shape:

            def swapped(function: Any, args: Any, kwargs: Any, i: int = i, j: int = j) -> Any:
                changed = list(args)
                changed[i], changed[j] = args[j], args[i]
                return function(*changed, **kwargs)

            yield Edit(call.name, swapped, f"swapped arguments: the {which} of the attention")


def another_scale(call: Call) -> Iterator[Edit]:
    """Attention scores with another scale."""
    if _is_attention(call):
        width = call.args[0].shape[-1]
        present = call.kwargs.get("scale") or width**-0.5
        for scale, words in ((1.0, "1"), (width**-0.5, f"1/sqrt({width})"), (1 / width, f"1/{width}")):
            if scale != present:
                said = f"JAX's attention scores are scaled by {words}, torch's by {present:.7g}"
                yield Edit(call.name, with_argument("scale", 99, scale), f"missing scale: {said}")


def _is_attention(call: Call) -> bool:
    """Whether it is torch's attention, with queries, keys and values by position."""
    return call.name == "scaled_dot_product_attention" and len(call.args) >= 3
