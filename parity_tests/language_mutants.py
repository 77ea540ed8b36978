"""Deliberate mistakes in the losses of language models and in the fused head, that the tests must notice.

By file and the tests that should fail: what stands there, and what is put in its place.
"""

EXTRAS = {
    ("losses/focal.py", "losses/test_focal.py"): [
        ("return -jnp.expm1(-surprise)", "return 1 - jnp.exp(-surprise)"),
        ("(1 + gamma * ratio)", "(1 + gamma)"),
        ("bounded = jnp.clip(surprise, jnp.finfo(surprise.dtype).eps, 1000.0)", "bounded = surprise"),
        ("jnp.clip(surprise, jnp.finfo(surprise.dtype).eps,", "jnp.clip(surprise, 1e-37,"),
        ("bounded * jnp.exp(-bounded) / _others_share(bounded)", "bounded / jnp.expm1(bounded)"),
        ("jnp.exp(-primals[0]) * tangents[0]", "(1 - _others_share(primals[0])) * tangents[0]"),
        ("times(target, softplus(-logits))", "target * softplus(-logits)"),
        ("lax.stop_gradient(factor), finite * factor", "factor, loss * factor"),
        (
            "times(target * alpha + (1 - target) * (1 - alpha), loss)",
            "loss * (target * alpha + (1 - target) * (1 - alpha))",
        ),
        ("polynomial = wrong * (coefficient + polynomial)", "polynomial = wrong * coefficient + polynomial"),
        (
            "in reversed(_coefficients(epsilon, surprise.dtype)):",
            "in _coefficients(epsilon, surprise.dtype):",
        ),
        ("(1 - target) * (1 - alpha), loss)", "(1 - target), loss)"),
        ("wrong = target * jax.nn.sigmoid(-logits)", "wrong = target * jax.nn.sigmoid(logits)"),
        ("positive = jnp.where(base == 0.0, 1.0, base)", "positive = base"),
        (
            "select(where, input.astype(dtype)), select(where, target",
            "input.astype(dtype), select(where, target",
        ),
        (
            "return _rows.reduce_weighted(loss, reduction, where, sample_weight)",
            "return _rows.reduce_weighted(loss, reduction, where, None)",
        ),
        ("epsilon, low=-1.0)", "epsilon)"),
    ],
    ("losses/penalties.py", "losses/test_penalties.py"): [
        (
            "loss = jnp.square(jax.nn.logsumexp(logits, axis))",
            "loss = jnp.abs(jax.nn.logsumexp(logits, axis))",
        ),
        ("jax.nn.softplus(jnp.where(kept, margins, 0.0))", "jax.nn.softplus(margins)"),
        ("* jnp.where(in_range, 1.0, jnp.nan).astype(", "* jnp.where(in_range, 1.0, 1.0).astype("),
        ("jnp.sum(jnp.where(kept, terms, 0.0), -1)", "jnp.sum(terms, -1)"),
        ("avoid = earlier & ~same &", "avoid = earlier &"),
        ("is_first = ~jnp.any(same & earlier, -1)", "is_first = jnp.ones(tokens.shape, bool)"),
        ("np.log([mass, 1 - mass])", "np.log([1 - mass, mass])"),
        (
            "_log_ratio.kl(lumped, jnp.broadcast_to(wanted, lumped.shape), -1)",
            "_log_ratio.kl(jnp.broadcast_to(wanted, lumped.shape), lumped, -1)",
        ),
        (
            "is_empty = ~jnp.any(members & (logits != -jnp.inf), -1)",
            "is_empty = ~jnp.any(members & (logits == logits), -1)",
        ),
    ],
    ("_label_margin.py", "losses/test_penalties.py"): [
        (
            "alone = jnp.sum(is_peak, -1, keepdims=True) == 1",
            "alone = jnp.sum(is_peak, -1, keepdims=True) >= 1",
        ),
        (
            "return jnp.where(leads, leader_margin,",
            "return jnp.where(leads & (own > jnp.inf), leader_margin,",
        ),
        ("own_dot - jnp.where(leads, leader_dot, others_dot)", "own_dot - others_dot"),
        ("- own_share * own_dot) / (1 - own_share)", "- own_share * own_dot)"),
    ],
    ("losses/distillation.py", "losses/test_distillation.py"): [
        ("* (1 - hard_weight) * temperature**2", "* (1 - hard_weight) * temperature"),
        ("* (1 - hard_weight) * temperature**2", "* temperature**2"),
        ("if hard_weight < 1.0:", "if True:"),
        ("_log_ratio.kl(teacher, student, axis)", "_log_ratio.kl(student, teacher, axis) + 0"),
        ("where, sample_weight = rows.kept, rows.weight", "sample_weight = rows.weight"),
        ("where, sample_weight = rows.kept, rows.weight", "where = rows.kept"),
        (
            "soft_teacher = select(taking_part, teacher.astype(dtype)) / temperature",
            "soft_teacher = select(taking_part, teacher.astype(dtype))",
        ),
    ],
    ("losses/softmax_divergence.py", "losses/test_softmax_divergence.py"): [
        (
            "return _log_ratio.kl(p_logits, q_logits, class_axis)",
            "return _log_ratio.kl(q_logits, p_logits, class_axis)",
        ),
        ("select(taking_part, input.astype(dtype)), select(", "input.astype(dtype), select("),
        ("jnp.expand_dims(where, axis)", "jnp.expand_dims(where | True, axis)"),
    ],
    ("_log_ratio.py", "losses/test_softmax_divergence.py"): [
        ("return jnp.sign(d) * jnp.maximum(p, q) * jnp.expm1(-jnp.abs(d))", "return q - p"),
        ("jnp.where(absent, 0.0, input), jnp.where(absent, 0.0, target)", "input, target"),
        ("near = centred - jnp.log1p(", "near = centred + jnp.log1p("),
        ("centred = (difference - centre) + error", "centred = difference - centre"),
        (
            "relative = (difference - own) + (error - own_error) + (own_p - own_q)",
            "relative = (difference - own) + (error - own_error)",
        ),
        ("return jnp.where(has_common, relative, difference)", "return relative"),
        ("jnp.where(t < 0.5, _series(t, lambda k: 1), far + jnp.expm1(-far))", "t + jnp.expm1(-t)"),
        ("jnp.where(p == 0.0, 0.0, p * _linear_growth(jnp.abs(d)))", "p * _linear_growth(jnp.abs(d))"),
        (
            "decay = jnp.exp(-2 * jnp.clip(half, 1.0, 1000.0))",
            "decay = jnp.exp(-jnp.clip(half, 1.0, 1000.0))",
        ),
        (
            "jnp.where(jnp.abs(d) < 2.0, -near - _log_cosh(near), math.log(2.0) - jax.nn.softplus(d))",
            "math.log(2.0) - jax.nn.softplus(d)",
        ),
        (
            "sign = jnp.sign(-log_ratio(input, target, axis))",
            "sign = jnp.sign(log_ratio(input, target, axis))",
        ),
        (
            "factor = factor - jnp.take_along_axis(factor,",
            "factor = factor - 0 * jnp.take_along_axis(factor,",
        ),
        ("factor = jnp.where(share == 0.0, 0.0, factor)", "factor = factor + 0.0"),
    ],
    ("losses/correlation.py", "losses/test_correlation.py"): [
        ("jnp.sum(weight * jnp.square(x - y), axes) / 2", "jnp.sum(weight * jnp.square(x - y), axes)"),
        ("jnp.where(has_x & has_y, distance, 1.0)", "distance"),
        ("jnp.finfo(size.dtype).max / 16, 1 / 16, 1.0)", "jnp.finfo(size.dtype).max / 16, 1.0, 1.0)"),
        (
            "series = series - lax.stop_gradient(jnp.where(first == -jnp.inf, 0.0, first))",
            "series = series + 0.0",
        ),
        ("series = series / lax.stop_gradient(jnp.where(scale == 0.0, 1.0, scale))", "series = series / 1.0"),
        (
            "mean = jnp.sum(weight * series, axes, keepdims=True)",
            "mean = jnp.sum(series, axes, keepdims=True)",
        ),
        (
            "variance = jnp.sum(weight * jnp.square(series), axes, keepdims=True)",
            "variance = jnp.sum(jnp.square(series), axes, keepdims=True)",
        ),
        ("jnp.sqrt(jnp.where(varies, variance, 1.0))", "jnp.sqrt(variance)"),
        ("jnp.any(where, axes)", "jnp.all(where, axes)"),
    ],
    ("losses/fairness.py", "losses/test_fairness.py"): [
        ("jnp.where(in_range | ~kept, 1.0, jnp.nan)", "jnp.where(in_range | kept, 1.0, jnp.nan)"),
        ("has_any = total != 0.0", "has_any = total > 0.0"),
        ("mean = of_groups(weight * losses)", "mean = of_groups(losses)"),
        ("lowest = jnp.min(jnp.where(has_any, mean, jnp.inf))", "lowest = jnp.min(mean)"),
        ("highest = jnp.max(jnp.where(has_any, mean, -jnp.inf))", "highest = jnp.max(mean)"),
        ("jnp.where(jnp.any(has_any), highest - lowest, 0.0)", "highest - lowest"),
        ("/ jnp.where(has_any, total, 1.0)", "/ total"),
        ("count = jnp.maximum(jnp.sum(has_any), 1).astype(mean.dtype)", "count = mean.size"),
        (
            "deviation = jnp.where(has_any, mean - jnp.sum(",
            "deviation = jnp.where(has_any | True, mean - jnp.sum(",
        ),
    ],
    ("losses/compose.py", "losses/test_compose.py"): [
        ("* term + log_variances[name] / 2", "* term + log_variances[name]"),
        (
            'scale = 0.5 if likelihoods[name] == "gaussian" else 1.0',
            'scale = 1.0 if likelihoods[name] == "gaussian" else 0.5',
        ),
        ("jnp.exp(-log_variances[name])", "jnp.exp(log_variances[name])"),
        ("/ num_steps, 0.0, 1.0)", "/ num_steps, 0.0, 2.0)"),
        ("if not _is_zero(weights[name])}", "}"),
        (
            "return (total, terms) if return_terms else total\n\n    return hybrid\n\n\ndef make_uncertainty",
            "return total\n\n    return hybrid\n\n\ndef make_uncertainty",
        ),
    ],
    ("losses/checked.py", "losses/test_checked.py"): [
        ("(labels < lowest) | (labels >= num_classes)", "labels >= num_classes"),
        ("(labels < lowest) | (labels >= num_classes)", "(labels < lowest) | (labels > num_classes)"),
        ('lowest = -1 if loss_name == "multilabel_margin_loss"', 'lowest = -1 if loss_name == ""'),
        ("is_wrong &= _rows.not_ignored(target", "_rows.not_ignored(target"),
        ("is_wrong &= _rows.not_ignored(group", "_rows.not_ignored(group"),
        ("return is_wrong & jnp.reshape(where", "return is_wrong | jnp.reshape(where"),
        ("jnp.arange(labels.shape[-1]) == labels.shape[-1] - 1", "True"),
        ('arguments["linear_weight"]).shape[0]', 'arguments["linear_weight"]).shape[-1]'),
        ("is_wrong &= jnp.arange(most) < length_N", "jnp.arange(most) < length_N"),
        (
            'searchsorted(ends_N, jnp.arange(labels.size), side="right")',
            "searchsorted(ends_N, jnp.arange(labels.size))",
        ),
        ("is_wrong &= owner < num_sequences", "pass"),
        ("(lengths < 0) | (lengths > longest)", "lengths > longest"),
        ("first = jnp.argmax(is_wrong.ravel())", "first = jnp.argmin(is_wrong.ravel())"),
        ("num_wrong=jnp.sum(is_wrong)", "num_wrong=jnp.size(is_wrong)"),
    ],
}

HEAD = {
    ("_softmax.py", "fused/test_api.py"): [
        (
            "own = jnp.where(kept_1, jnp.where(in_range, own, jnp.nan), 0.0)",
            "own = jnp.where(kept_1, own, 0.0)",
        ),
    ],
    ("fused/_chunked.py", "fused/test_api.py"): [
        ('all_rows["scale"] * losses)), statistics', "losses)), statistics"),
        ('sums["total"] = sums["total"] + total\n', 'sums["total"] = total\n'),
        (
            'input_CD = shared["weight"], select(rows["kept"][:, None], rows["input"])',
            'input_CD = shared["weight"], rows["input"]',
        ),
        ("sums[k] + d.astype(sums[k].dtype)", "d.astype(sums[k].dtype)"),
    ],
    ("fused/_chunked.py", "fused/test_mutants.py"): [
        ('{"total": sums["total"] + total}', '{"total": total}'),
        ("return add(num_rows - rest, rest, sum_VD) if rest else sum_VD", "return sum_VD"),
        ("losses), lax.stop_gradient(statistics)", "losses), statistics"),
    ],
    ("fused/_chunked_head.py", "fused/test_api.py"): [
        ("scale = select(arguments.kept, scale / denominator)", "scale = select(arguments.kept, scale)"),
        ("jnp.where(denominator == 0.0, jnp.nan, 0.0)", "jnp.where(denominator == 0.0, 0.0, 0.0)"),
        ("(result[:num_tokens] * arguments.token_weight)", "result[:num_tokens]"),
    ],
    ("fused/_head_loss.py", "fused/test_api.py"): [
        (
            "logits = self.softcap * jnp.tanh(logits / self.softcap)",
            "logits = jnp.tanh(logits / self.softcap)",
        ),
        (
            "logits = self.softcap * jnp.tanh(logits / self.softcap)",
            "logits = self.softcap * jnp.tanh(logits)",
        ),
        ("self.z_loss * jnp.square(", "self.z_loss * jnp.abs("),
        ("(1 - self.label_smoothing) * losses\n", "losses\n"),
        ("return own + self.label_smoothing * spread", "return own + spread"),
        ("jnp.where(weight == 0.0, 0.0, surprise) * weight", "surprise"),
        (
            "own >= _vocabulary.largest(logits, self.axis_name)",
            "own > _vocabulary.largest(logits, self.axis_name)",
        ),
    ],
    ("fused/_head_arguments.py", "fused/test_api.py"): [
        ("weight = weight * select(arguments.kept, pick(arguments.target))", "weight = weight * 1.0"),
        ("kept = kept if where is None else kept & where", "kept = kept if where is None else kept | where"),
    ],
    ("fused/_vocabulary.py", "fused/test_mutants.py"): [
        ("return jnp.where(is_here, found, jnp.nan)", "return found"),
    ],
    ("fused/language.py", "fused/test_language.py"): [
        ("hidden[..., -1, :],", "hidden[..., 0, :],"),
        ("unwrapped(target)[..., -1],", "unwrapped(target)[..., 0],"),
        ("where[..., -1]", "where[..., 0]"),
    ],
    ("fused/distillation.py", "fused/test_distillation.py"): [
        ("self.temperature**2 * losses", "self.temperature * losses"),
        ("return _log_ratio.kl(teacher, student, 1)", "return _log_ratio.kl(student, teacher, 1) + 0"),
        ("losses += self.hard_weight * _softmax", "losses += _softmax"),
    ],
}
