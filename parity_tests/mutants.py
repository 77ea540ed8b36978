"""Deliberate mistakes, one line each, that the tests must notice: (file, right, wrong, tests that should
fail)."""

_CLASSES = "test_classification.py"
_EXACT = "test_accuracy.py"

MUTANTS = [
    # Softmax arithmetic
    ("_softmax.py", "jnp.log1p(u), gap + (error", "jnp.log(1 + u), gap + (error", _EXACT),
    ("_softmax.py", "return half * (factor * half) * (1 + error)", "return half * (factor * half)", _EXACT),
    (
        "_softmax.py",
        "others_mass = jnp.where(leads, u / (1 + u),",
        "others_mass = jnp.where(leads, 1 - 1 / (1 + u),",
        _EXACT,
    ),
    (
        "_softmax.py",
        "jnp.where(in_range & (own < jnp.inf), own, jnp.nan)",
        "jnp.where(in_range, own, jnp.nan)",
        _CLASSES,
    ),
    ("_softmax.py", "jnp.where(in_range & (own < jnp.inf), own, jnp.nan)", "own", _CLASSES),
    ("_softmax.py", "jnp.where(jnp.isfinite(own), own, 0.0), peak)", "0.0, peak)", _CLASSES),
    (
        "_softmax.py",
        "logits = jnp.where(jnp.expand_dims(kept, axis), logits, 0.0)",
        "logits = logits + 0.0",
        _CLASSES,
    ),
    ("_softmax.py", "jnp.isfinite(rounded), error, jnp.zeros_like(error))", "True, error, error)", _CLASSES),
    ("_softmax.py", "jnp.log1p((num_peaks - 1) + u)", "jnp.log1p(u)", _CLASSES),
    (
        "_softmax.py",
        "jnp.where(probabilities == 0.0, 0.0, probabilities * (peak - logits))",
        "probabilities * (peak - logits)",
        _CLASSES,
    ),
    (
        "_softmax.py",
        "at_peak = elsewhere - total * (u / (1 + u))",
        "at_peak = total / (1 + u) - probabilities",
        _EXACT,
    ),
    ("_softmax.py", "loss_dot -= jnp.sum(log_softmax", "loss_dot += jnp.sum(log_softmax", _CLASSES),
    (
        "_softmax.py",
        "return probabilities * (tangent - jnp.sum(",
        "return probabilities * (tangent + jnp.sum(",
        _CLASSES,
    ),
    # cross_entropy and nll_loss
    ("losses/classification.py", "kept = labels != ignore_index if", "kept = labels == labels if", _CLASSES),
    (
        "losses/classification.py",
        "return reduce_loss(loss, reduction, where, jnp.sum(select(where, row_weight)))",
        "return reduce_loss(loss, reduction, where)",
        _CLASSES,
    ),
    (
        "losses/classification.py",
        "loss = -row_weight * select(where, own.astype(dtype))",
        "loss = -row_weight * own.astype(dtype)",
        _CLASSES,
    ),
    (
        "losses/classification.py",
        "label_smoothing / num_classes, dtype)",
        "label_smoothing / (num_classes - 1), dtype)",
        _CLASSES,
    ),
    ("losses/classification.py", "spread * weight.astype(dtype), len(shape)", "spread, len(shape)", _CLASSES),
    ("losses/classification.py", "(1 - label_smoothing) * row_weight, axis)", "row_weight, axis)", _CLASSES),
    ("losses/classification.py", "jnp.where(jnp.isnan(own), jnp.nan, 0.0)", "0.0", _CLASSES),
    (
        "losses/classification.py",
        "probabilities * (1 - label_smoothing) + label_smoothing / logits.shape[axis]",
        "probabilities * (1 - label_smoothing) + label_smoothing",
        _CLASSES,
    ),
    (
        "losses/classification.py",
        "logits = select(row_mask, logits.astype(dtype))",
        "logits = logits.astype(dtype)",
        _CLASSES,
    ),
    ("losses/classification.py", "if ignore_index >= 0:", "if ignore_index > 0:", _CLASSES),
    (
        "losses/classification.py",
        "jnp.where(in_range, weight.astype(dtype)[index], jnp.nan)",
        "weight.astype(dtype)[index]",
        _CLASSES,
    ),
    (
        "_checks.py",
        "return array if array.dtype == jnp.int64 else array.astype(jnp.int32)",
        "return array",
        _CLASSES,
    ),
    ("_checks.py", "array = jnp.minimum(array, jnp.array(2**31 - 1, array.dtype))", "pass", _CLASSES),
    ("_checks.py", "if array.shape != tuple(shape):", "if array.ndim != len(shape):", _CLASSES),
    ("_checks.py", "not (low <= number <= high)", "number < low or number > high", _CLASSES),
    # The reduction
    ("_reduction.py", "jnp.dtype(jnp.float32))", "jnp.dtype(jnp.bfloat16))", "test_regression.py"),
    ("_reduction.py", "loss = select(where, loss)", "loss = loss * 1.0", "test_regression.py"),
    (
        "_reduction.py",
        "return jnp.sum(where).astype(loss.dtype)",
        "return jnp.asarray(loss.size, loss.dtype)",
        "test_regression.py",
    ),
    # Regression
    ("_elements.py", "return x * lax.stop_gradient(jnp.sign(x))", "return jnp.abs(x)", "test_regression.py"),
    (
        "_elements.py",
        "select(where, array.astype(dtype)) for array",
        "array.astype(dtype) for array",
        "test_regression.py",
    ),
    (
        "losses/regression.py",
        "reduce_loss(loss * weight, reduction, where, jnp.sum(weight))",
        "reduce_loss(loss * weight, reduction, where)",
        "test_regression.py",
    ),
    (
        "losses/regression.py",
        "_reduce_weighted(jnp.square(x - y), w",
        "_reduce_weighted(jnp.square(x - y) / 2, w",
        "test_regression.py",
    ),
    ("losses/regression.py", "huber(x - y, beta) / beta", "huber(x - y, beta)", "test_regression.py"),
    ("losses/regression.py", "if beta == 0.0 else", "if beta < 0.0 else", "test_regression.py"),
    (
        "_elements.py",
        "return near * (size - 0.5 * near)",
        "return near * (size - near)",
        "test_regression.py",
    ),
    ("_elements.py", "jnp.clip(primals[0], -delta, delta)", "primals[0]", "test_regression.py"),
    # Likelihoods
    (
        "losses/likelihood.py",
        "jnp.exp(x) - y * x if log_input",
        "x - y * jnp.log(x + eps) if log_input",
        "test_likelihood.py",
    ),
    ("losses/likelihood.py", "jnp.log(x + eps)", "jnp.log(x)", "test_likelihood.py"),
    (
        "losses/likelihood.py",
        "loss += jnp.where(y <= 1.0, 0.0, stirling)",
        "loss += jnp.where(y < 1.0, 0.0, stirling)",
        "test_likelihood.py",
    ),
    (
        "losses/likelihood.py",
        "0.5 * jnp.log(2 * math.pi * many)",
        "0.5 * jnp.log(math.pi * many)",
        "test_likelihood.py",
    ),
    (
        "losses/likelihood.py",
        "lax.stop_gradient(jnp.maximum(variance, eps) - variance)",
        "jnp.maximum(variance, eps) - variance",
        "test_likelihood.py",
    ),
    (
        "losses/likelihood.py",
        "loss += 0.5 * math.log(2 * math.pi)",
        "loss += math.log(2 * math.pi)",
        "test_likelihood.py",
    ),
    (
        "losses/likelihood.py",
        "jnp.where(variance < 0.0, jnp.nan, 0.0)",
        "jnp.zeros(())",
        "test_likelihood.py",
    ),
    # Divergence
    (
        "losses/divergence.py",
        "jnp.where(target == 0.0, 0.0, target * difference)",
        "target * difference",
        "test_divergence.py",
    ),
    (
        "losses/divergence.py",
        "(jnp.log(target) - input + 1)",
        "(jnp.log(target) - input)",
        "test_divergence.py",
    ),
    ("losses/divergence.py", "jnp.any(where, axis", "jnp.all(where, axis", "test_divergence.py"),
    (
        "losses/divergence.py",
        "absent = log_target == -jnp.inf",
        "absent = log_target == jnp.inf",
        "test_divergence.py",
    ),
    ("losses/divergence.py", "log_minus(positive, input) if input.dtype == jnp.float32 else", "", _EXACT),
    # Logistic losses
    (
        "_elements.py",
        "return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))",
        "return jnp.log1p(jnp.exp(x))",
        "test_binary.py",
    ),
    (
        "_elements.py",
        "return factor * jnp.where(nothing, 0.0, value)",
        "return factor * value",
        "test_binary.py",
    ),
    (
        "losses/binary.py",
        "times(y if q is None else q * y, softplus(-x))",
        "times(y, softplus(-x))",
        "test_binary.py",
    ),
    ("losses/binary.py", "jnp.maximum(jnp.log(p), -100.0)", "jnp.log(p)", "test_binary.py"),
    ("losses/binary.py", "jnp.maximum((1 - p) * p, TORCH_EPSILON)", "((1 - p) * p)", "test_binary.py"),
    ("losses/binary.py", "jnp.where((p < 0.0) | (p > 1.0), jnp.nan, slope)", "slope", "test_binary.py"),
    ("losses/binary.py", "jnp.sum(loss, -1) / x.shape[-1]", "jnp.sum(loss, -1)", "test_binary.py"),
    # Margins
    (
        "_elements.py",
        "return jnp.where(x < 0.0, 0.0, x)",
        "return jnp.where(x <= 0.0, 0.0, x)",
        "test_margin.py",
    ),
    (
        "_elements.py",
        "return jnp.where(x <= 0.0, 0.0, x)",
        "return jnp.where(x < 0.0, 0.0, x)",
        "test_margin.py",
    ),
    ("losses/margin.py", "hinge(-y * (a - b) + margin)", "hinge(y * (a - b) + margin)", "test_margin.py"),
    ("losses/margin.py", "select(y != -1, x)", "select(y == 1, x)", "test_margin.py"),
    (
        "losses/margin.py",
        "select(others, lead if p == 1 else jnp.square(lead))",
        "select(others, lead)",
        "test_margin.py",
    ),
    ("losses/margin.py", "select(others, lead if p == 1", "(lead if p == 1", "test_margin.py"),
    ("losses/margin.py", "row_weight = jnp.where(in_range, row_weight, jnp.nan)", "pass", "test_margin.py"),
    (
        "losses/margin.py",
        "listed = jnp.cumsum(labels < 0, -1) == 0",
        "listed = labels >= 0",
        "test_margin.py",
    ),
    (
        "losses/margin.py",
        "pairs = listed[..., None] & ~is_label[..., None, :]",
        "pairs = listed[..., None]",
        "test_margin.py",
    ),
    # Vectors
    (
        "losses/embedding.py",
        "select(y == -1, hinge(cosine - margin))",
        "select(y == -1, cosine - margin)",
        "test_embedding.py",
    ),
    (
        "losses/embedding.py",
        "(jnp.sum(jnp.square(a), -1) + TORCH_EPSILON)",
        "jnp.sum(jnp.square(a), -1)",
        "test_embedding.py",
    ),
    (
        "losses/embedding.py",
        "lambda x, y: _norm(x - y + eps, p)",
        "lambda x, y: _norm(x - y, p)",
        "test_embedding.py",
    ),
    (
        "losses/embedding.py",
        "to_negative = jnp.minimum(to_negative, distance(p, n))",
        "to_negative = jnp.minimum(to_negative, distance(a, p))",
        "test_embedding.py",
    ),
    (
        "losses/embedding.py",
        "positive = jnp.where(total == 0.0, 1.0, total)",
        "positive = total",
        "test_embedding.py",
    ),
    # CTC
    ("losses/ctc.py", "(states_NL != blank) & (states_NL != shifted)", "states_NL != blank", "test_ctc.py"),
    ("losses/ctc.py", "may_skip = (states_NL != blank) &", "may_skip =", "test_ctc.py"),
    ("losses/ctc.py", "jnp.where((time < frames_N)[:, None], emitted, alpha_NL)", "emitted", "test_ctc.py"),
    ("losses/ctc.py", "jnp.maximum(labels_N, 1)", "jnp.maximum(frames_N, 1)", "test_ctc.py"),
    ("losses/ctc.py", "jnp.where(labels_N > 0, last_label, -jnp.inf)", "last_label", "test_ctc.py"),
    ("losses/ctc.py", "jnp.where(loss_N == jnp.inf, 0.0, loss_N)", "loss_N", "test_ctc.py"),
    # Language
    (
        "losses/language.py",
        "logits[..., -1, :],",
        "logits[..., 0, :],",
        "test_language.py",
    ),
    ("losses/language.py", "where[..., -1]", "where[..., 0]", "test_language.py"),
]
