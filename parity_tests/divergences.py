"""Where the losses differ from torch's on purpose: one table, which the README shows and the docstrings name.

`docstrings` are the clauses of "Differs from torch", or of docs/conventions.md, that stand for the row;
test_public.py fails for a clause of a docstring that is in none.
"""

from typing import NamedTuple


class Divergence(NamedTuple):
    """A row of the table."""

    what: str
    torch: str
    jaxloss: str
    docstrings: tuple[str, ...] = ()


DIVERGENCES = [
    Divergence(
        "class axis",
        "`axis=1`",
        "`axis=-1`; `axis=1` gives torch's layout, without it `[N, C, C]` is read with classes last",
        ("`axis=-1`",),
    ),
    Divergence(
        "confident predictions in float32",
        "loss 0 with the label's gradient 0; `soft_margin_loss` infinite at scores below -88",
        "the true value, within a few ULP",
        (
            "confident negatives do not cancel (at a logit of -40 torch's float32 gives 0)",
            "a score of -100 for a positive target costs 100, where torch's float32 overflows to inf",
        ),
    ),
    Divergence(
        "bfloat16 and float16",
        "loss rounded to the input's dtype",
        "computed in and returned as float32; gradients rounded once",
    ),
    Divergence(
        "NaN in an ignored row",
        "poisons the gradient",
        "the row counts as deleted",
        ("ignored rows may hold NaN",),
    ),
    Divergence(
        "label or length out of range",
        "error on the CPU, CUDA abort",
        "NaN in value and gradient; `make_checked(loss)` raises and says where",
        (
            "a label out of range gives NaN, not an abort",
            "a label outside `[0, C)` gives NaN, in value and gradient, under `jit` and without",
            "a label outside `[-1, C)` gives NaN, in value and gradient, under `jit` and without",
            "Labels or lengths out of range give NaN, under `jit` and without",
        ),
    ),
    Divergence(
        "probability or its target outside [0, 1], negative variance",
        "error",
        "NaN in value and gradient",
        (
            "a probability or target outside [0, 1] gives NaN, in value and gradients, since under `jit` "
            "nothing can be raised",
            "a negative variance in an array gives NaN, in value and gradient, since under `jit` nothing can "
            "be raised",
        ),
    ),
    Divergence(
        "`gaussian_nll_loss`, variances with axes of size 1",
        "one such axis",
        "any number",
        ("variances may have several axes of size 1",),
    ),
    Divergence("labels", "int64 (or uint8)", "any integer dtype", ("any integer dtype serves as a label",)),
    Divergence("floating-point dtypes that differ", "often an error", "the widest of them"),
    Divergence(
        "integers or booleans in place of real numbers",
        "converted by some losses",
        "`TypeError`, but for Python numbers and for integer targets where torch takes them",
    ),
    Divergence(
        "shapes that differ",
        "broadcast, with a warning",
        "`ValueError`",
        ("Shapes that differ are an error, never broadcast",),
    ),
    Divergence(
        "probability 0 of a class with logit -inf",
        "NaN",
        "contributes 0",
        ("a probability of 0 contributes 0 even where the logit is -inf",),
    ),
    Divergence(
        "infinite logit on the right side of a yes or no",
        "NaN",
        "0",
        ("an infinite logit on the right side costs 0, where torch gives NaN",),
    ),
    Divergence("`weight` of the classes", "a constant", "has a gradient", ("`weight` has a gradient",)),
    Divergence(
        "`kl_div`, zero target",
        "0 with a NaN gradient of the target; NaN if the input is -inf or with `log_target`",
        "0 with a finite gradient of the target",
        (
            r"$p_i = 0$ contributes 0, even where $x_i = -\infty$ or with `log_target`, where torch gives "
            r"NaN",
            r"its gradient with respect to the target is that of the smallest normal $p_i$, not $-\infty$, "
            r"so that a softmax before it multiplies it to 0 (0 itself where both exclude the class), where "
            r"torch gives NaN",
        ),
    ),
    Divergence(
        "`ctc_loss`, gradient of `log_probs`",
        "right only below a log-softmax, with an error of hundreds of eps; NaN where the loss is infinite",
        "the true derivative, within a few eps; 0 where the loss is infinite",
        (
            "the gradient is the true derivative with respect to `log_probs`",
            "Torch adds `exp(log_probs)`, which makes no difference below a log-softmax",
            "Where the loss is infinite the gradient is 0, not NaN",
        ),
    ),
    Divergence(
        "`binary_cross_entropy`, gradient of the target at probabilities of 0 and 1",
        "infinite",
        "within 100, as the logarithms are",
        (
            "the gradient of the target stays within 100 at probabilities of 0 and 1, like the logarithms, "
            "where torch's is infinite",
        ),
    ),
    Divergence(
        "`poisson_nll_loss(full=True)`, gradient of a target of 0 or below",
        "NaN",
        "finite",
        ("the gradient of a target of 0 or below is finite with `full`, where torch's is NaN",),
    ),
    Divergence(
        "`l1_loss`, gradient where the error is NaN",
        "0",
        "NaN",
        ("where the error is NaN so is the gradient, which torch gives as 0",),
    ),
    Divergence(
        "losses on margins and cosines",
        "`cosine_embedding_loss`, `multi_margin_loss`, `multilabel_margin_loss`: one or two axes",
        "any number",
        ("any number of leading axes",),
    ),
    Divergence(
        "vectors of 1e20 and longer in float32",
        "`cosine_embedding_loss`, `triplet_margin_loss`: NaN, since their squares overflow",
        "the true value",
        ("vectors whose squares overflow have a cosine", "vectors whose squares overflow have a distance"),
    ),
    Divergence("`triplet_margin_loss` of scalars", "accepted", "`ValueError`"),
    Divergence(
        "`label_smoothing`, `eps`, or the power `p` of a distance below 0", "accepted", "`ValueError`"
    ),
    Divergence(
        "`linear_cross_entropy`, chunked",
        "no forward mode, second derivative, `vmap`, label smoothing or probabilities",
        "all of them",
    ),
    Divergence("`size_average`, `reduce`", 'deprecated, as is `reduction="elementwise_mean"`', "left out"),
]
