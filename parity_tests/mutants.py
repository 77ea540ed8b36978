"""Deliberate mistakes in torch's losses and the arithmetic below them, that the tests must notice.

By file and the tests that should fail: what stands there, and what is put in its place.
"""

from parity_tests.language_mutants import EXTRAS, HEAD

TORCHS = {
    ("_softmax.py", "losses/test_accuracy.py"): [
        ("jnp.log1p(u), gap + (error", "jnp.log(1 + u), gap + (error"),
        ("return jnp.exp(rounded) * (1 + error)", "return jnp.exp(rounded)"),
        ("others_mass = jnp.where(leads, u / (1 + u),", "others_mass = jnp.where(leads, 1 - 1 / (1 + u),"),
        ("return jnp.where(own == peak, own - LEAD, peak)", "return peak"),
        ("lead = jnp.exp(jnp.minimum(gap, 0.0)) * (1 + error)", "lead = jnp.exp(jnp.minimum(gap, 0.0))"),
        ("elsewhere - total * (u / (1 + u)), plain)", "plain, plain)"),
        ("(num_peaks == 1.0) & (u < 1.0)", "(num_peaks == 1.0)"),
    ],
    ("_softmax.py", "losses/test_classification.py"): [
        ("labels, axis) & jnp.expand_dims(kept, axis)", "labels, axis)"),
        ("jnp.where(is_other, exp_difference(logits, reference), 0.0)", "exp_difference(logits, reference)"),
        ("jnp.isfinite(rounded), error, jnp.zeros_like(error))", "True, error, error)"),
        ("jnp.log1p((num_peaks - 1) + u)", "jnp.log1p(u)"),
        (
            "jnp.where(probabilities == 0.0, 0.0, probabilities * (peak - logits))",
            "probabilities * (peak - logits)",
        ),
        ("loss_dot -= jnp.sum(log_softmax", "loss_dot += jnp.sum(log_softmax"),
        ("return probabilities * (tangent - jnp.sum(", "return probabilities * (tangent + jnp.sum("),
    ],
    ("_rows.py", "losses/test_classification.py"): [
        ("labels != np.asarray(ignore_index, labels.dtype)", "labels == labels"),
        ("select(kept, jnp.where(in_range, label_weight, jnp.nan))", "select(kept, label_weight)"),
        ("in_range = (labels >= 0) & (labels < num_classes)", "in_range = labels < num_classes"),
        ("reduction, where, jnp.sum(weight))", "reduction, where)"),
    ],
    ("_rows.py", "losses/test_penalties.py"): [
        ("weight = select(where, weight.astype(loss.dtype))", "weight = weight.astype(loss.dtype)"),
    ],
    ("losses/classification.py", "losses/test_classification.py"): [
        (
            "return reduce_loss(loss, reduction, rows.kept, jnp.sum(rows.weight))",
            "return reduce_loss(loss, reduction, rows.kept)",
        ),
        (
            "label_smoothing / max(shape[rows.axis], 1), dtype)",
            "label_smoothing / (shape[rows.axis] - 1), dtype)",
        ),
        ("spread * jnp.asarray(weight).astype(dtype)", "spread"),
        ("(1 - label_smoothing) * rows.label_weight", "rows.label_weight"),
        ("jnp.where(jnp.isnan(own), jnp.nan, 0.0)", "0.0"),
        (
            "probabilities * (1 - label_smoothing) + label_smoothing / max(logits.shape[axis], 1)",
            "probabilities * (1 - label_smoothing) + label_smoothing",
        ),
        ("logits = select(row_mask, logits.astype(dtype))", "logits = logits.astype(dtype)"),
    ],
    ("losses/classification.py", "losses/test_checks.py"): [
        ("ignore_index) >= 0:", "ignore_index) > 0:"),
    ],
    ("_checks.py", "losses/test_checks.py"): [
        ("return jnp.asarray(array.astype(dtype))", "return jnp.asarray(array)"),
        ("array = library.minimum(array, library.asarray(has.max, array.dtype))", "pass"),
        ("array = library.maximum(array, library.asarray(has.min, array.dtype))", "pass"),
        ("(np.ndarray, np.generic, int))\n    return np.asarray", "())\n    return np.asarray"),
        ("float(value) if is_int else value", "value"),
        ("if array.shape != tuple(shape):", "if array.ndim != len(shape):"),
        ("not (low <= number <= high)", "number < low or number > high"),
    ],
    ("_rows.py", "losses/test_checks.py"): [
        ("kept = not_ignored(target, ignore_index)", "kept = not_ignored(labels, ignore_index)"),
        ("if weight is None or num_classes == 0:", "if weight is None:"),
    ],
    ("_reduction.py", "losses/test_checks.py"): [
        ("[array.dtype for array in given if not array.weak_type]", "[array.dtype for array in given]"),
    ],
    ("_reduction.py", "losses/test_regression.py"): [
        ("[jnp.dtype(jnp.float32), *dtypes]", "[jnp.dtype(jnp.bfloat16), *dtypes]"),
        ("return jnp.sum(where).astype(loss.dtype)", "return jnp.asarray(loss.size, loss.dtype)"),
    ],
    ("_reduction.py", "losses/test_binary.py"): [
        ("loss = select(where, loss)", "loss = loss * 1.0"),
    ],
    ("_elements.py", "losses/test_regression.py"): [
        ("return x * lax.stop_gradient(jnp.sign(x))", "return jnp.abs(x)"),
        ("select(where, in_full(a, input.shape, dtype))", "in_full(a, input.shape, dtype)"),
        ("return near * (size - 0.5 * near)", "return near * (size - near)"),
        ("jnp.clip(primals[0], -delta, delta)", "primals[0]"),
        ("0.5 * size * (size / beta)", "0.5 * size * size / beta"),
        ("error / beta, jnp.sign(error))", "error / beta, error)"),
    ],
    ("losses/regression.py", "losses/test_regression.py"): [
        (
            "reduce_loss(loss * weight, reduction, where, jnp.sum(weight))",
            "reduce_loss(loss * weight, reduction, where)",
        ),
        ("_reduce_weighted(jnp.square(x - y), w", "_reduce_weighted(jnp.square(x - y) / 2, w"),
        ("smooth_l1(x - y, beta)", "huber(x - y, beta) / beta"),
        ("if beta == 0.0 else", "if beta < 0.0 else"),
    ],
    ("losses/likelihood.py", "losses/test_likelihood.py"): [
        ("jnp.exp(x) - y * x if log_input", "x - y * jnp.log(x + eps) if log_input"),
        ("jnp.log(x + eps)", "jnp.log(x)"),
        ("loss += jnp.where(y <= 1.0, 0.0, stirling)", "loss += jnp.where(y < 1.0, 0.0, stirling)"),
        ("0.5 * jnp.log(2 * math.pi * many)", "0.5 * jnp.log(math.pi * many)"),
        ("raised = eps + (variance - lax.stop_gradient(variance))", "raised = eps"),
        (
            "jnp.where(variance < eps, raised, variance)",
            "variance + lax.stop_gradient(jnp.maximum(variance, eps) - variance)",
        ),
        ("loss += 0.5 * math.log(2 * math.pi)", "loss += math.log(2 * math.pi)"),
        ("jnp.where(variance < 0.0, jnp.nan, 0.0)", "jnp.zeros(())"),
    ],
    ("losses/divergence.py", "losses/test_divergence.py"): [
        ("jnp.where(target == 0.0, 0.0, target * difference)", "target * difference"),
        ("(jnp.log(target) - input + 1)", "(jnp.log(target) - input)"),
        ("jnp.any(where, axis", "jnp.all(where, axis"),
        ("absent = log_target == -jnp.inf", "absent = log_target == jnp.inf"),
    ],
    ("losses/divergence.py", "losses/test_accuracy.py"): [
        ("log_minus(positive, input) if input.dtype == jnp.float32 else", ""),
    ],
    ("_logarithm.py", "losses/test_accuracy.py"): [
        ("_sum(power, jnp.full_like(p, high))", "_sum(jnp.full_like(p, high), power)"),
        ("error + (power_error + rounding)", "error + power_error"),
        ("2 * s[1] + tail_error + exponent * _LN2[2]", "2 * s[1] + tail_error"),
        ("2 * s[1] + tail_error + exponent * _LN2[2]", "2 * s[1] + exponent * _LN2[2]"),
        ("- ratio * denominator_error) / denominator", ") / denominator"),
        ("error + (a[0] * b[1] + a[1] * b[0])", "error"),
    ],
    ("_elements.py", "losses/test_binary.py"): [
        ("return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))", "return jnp.log1p(jnp.exp(x))"),
        ("return factor * jnp.where(nothing, 0.0, value)", "return factor * value"),
        ("broadcast_to(array.astype(dtype), shape)", "broadcast_to(array, shape).astype(dtype)"),
    ],
    ("losses/binary.py", "losses/test_binary.py"): [
        ("times(y if q is None else q * y, softplus(-x))", "times(y, softplus(-x))"),
        ("jnp.maximum(jnp.log(p), -100.0)", "jnp.log(p)"),
        ("jnp.maximum((1 - p) * p, TORCH_EPSILON)", "((1 - p) * p)"),
        ("_poison(slope, p, y) * p_dot", "slope * p_dot"),
        ("_poison(log1m - log, p, y)", "(log1m - log)"),
        ("(p <= 1.0) & (y >= 0.0) & (y <= 1.0)", "(p <= 1.0)"),
        ("jnp.sum(loss, -1) / x.shape[-1]", "jnp.sum(loss, -1)"),
    ],
    ("_elements.py", "losses/test_margin.py"): [
        ("return jnp.where(x < 0.0, 0.0, x)", "return jnp.where(x <= 0.0, 0.0, x)"),
        ("return jnp.where(x <= 0.0, 0.0, x)", "return jnp.where(x < 0.0, 0.0, x)"),
    ],
    ("losses/margin.py", "losses/test_margin.py"): [
        ("hinge(-y * (a - b) + margin)", "hinge(y * (a - b) + margin)"),
        ("select(y != -1, x)", "select(y == 1, x)"),
        ("jnp.sum(lead if p == 1 else jnp.square(lead), -1)", "jnp.sum(lead, -1)"),
        ("strict_hinge(select(others, margin - own + x))", "strict_hinge(margin - own + x)"),
        ("row_weight = jnp.where(in_range, row_weight, jnp.nan)", "pass"),
        ("listed = jnp.cumsum(labels < 0, -1) == 0", "listed = labels >= 0"),
        ("select(counts & ~is_label, 1.0", "select(counts, 1.0"),
        ("select(counts & ~is_label, 1.0", "select(~is_label, 1.0"),
        ("ahead = ~(lead <= 0.0)", "ahead = ~(lead < 0.0)"),
        (" - jnp.where(classes == label, num_ahead, 0.0)", ""),
        ("return is_label | (counts & (classes == label))", "return is_label | (classes == label)"),
    ],
    ("losses/embedding.py", "losses/test_embedding.py"): [
        ("select(y == -1, hinge(cosine - margin))", "select(y == -1, cosine - margin)"),
        ("(jnp.sum(jnp.square(a), -1) + TORCH_EPSILON)", "jnp.sum(jnp.square(a), -1)"),
        ("lambda x, y: _norm(x - y + eps, p)", "lambda x, y: _norm(x - y, p)"),
        (
            "to_negative = jnp.minimum(to_negative, distance(p, n))",
            "to_negative = jnp.minimum(to_negative, distance(a, p))",
        ),
        ("positive = jnp.where(total == 0.0, 1.0, total)", "positive = total"),
    ],
    ("losses/ctc.py", "losses/test_ctc.py"): [
        ("may_skip = states_NL != shifted", "may_skip = states_NL != blank"),
        ("jnp.where(jnp.isfinite(x), jnp.round(x), 0.0)", "0.0 * x"),
        ("jnp.where(may_skip, from_two[1], -jnp.inf)", "from_two[1]"),
        ("jnp.where(is_running, new, old) for new", "new for new"),
        ("jnp.maximum(labels_N, 1)", "jnp.maximum(frames_N, 1)"),
        ("jnp.where(labels_N > 0, last_label[1], -jnp.inf)", "last_label[1]"),
        ("jnp.where(loss_N == jnp.inf, 0.0, loss_N)", "loss_N"),
        ("jnp.all(possible_N == lengths_N) & (jnp.sum", "(jnp.sum"),
        (" & (jnp.sum(possible_N) == labels.size)", ""),
    ],
    ("losses/language.py", "losses/test_language.py"): [
        ("logits[..., -1, :],", "logits[..., 0, :],"),
        ("where[..., -1]", "where[..., 0]"),
    ],
}

MUTANTS = [
    (file, right, wrong, tests)
    for mistakes in (TORCHS, EXTRAS, HEAD)
    for (file, tests), pairs in mistakes.items()
    for right, wrong in pairs
]
