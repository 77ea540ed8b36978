"""The losses' formulas in mpmath, at 50 digits, transcribed from the docstrings."""

import itertools

import mpmath
import numpy as np

mpmath.mp.dps = 50


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[list, list]:
    """`-log softmax(logits)[label]` of each row, and its gradient."""
    values, gradients = [], []
    for row, label in zip(logits, labels, strict=True):
        z = [mpmath.mpf(float(x)) for x in row]
        peak = max(z)
        weights = [mpmath.exp(x - peak) for x in z]
        total = mpmath.fsum(weights)
        others = mpmath.fsum(w for j, w in enumerate(weights) if j != label)
        values.append(mpmath.log1p(others / weights[label]))
        gradients.append([-others / total if j == label else w / total for j, w in enumerate(weights)])
    return values, gradients


def nll_of_log_softmax(logits: np.ndarray, labels: np.ndarray) -> list:
    """The value alone."""
    return cross_entropy(logits, labels)[0]


def binary_cross_entropy_with_logits(logits: np.ndarray, targets: np.ndarray) -> tuple[list, list]:
    """`y log(1 + exp(-x)) + (1 - y) log(1 + exp(x))` of each element, and its gradient."""
    values, gradients = [], []
    for x, y in zip(logits, targets, strict=True):
        x, y = mpmath.mpf(float(x)), mpmath.mpf(float(y))
        values.append(y * mpmath.log1p(mpmath.exp(-x)) + (1 - y) * mpmath.log1p(mpmath.exp(x)))
        gradients.append((1 - y) / (1 + mpmath.exp(-x)) - y / (1 + mpmath.exp(x)))
    return values, gradients


def soft_margin_loss(scores: np.ndarray, signs: np.ndarray) -> tuple[list, list]:
    """`log(1 + exp(-y x))` of each element, and its gradient."""
    values, gradients = [], []
    for x, y in zip(scores, signs, strict=True):
        x, y = mpmath.mpf(float(x)), mpmath.mpf(float(y))
        values.append(mpmath.log1p(mpmath.exp(-y * x)))
        gradients.append(-y / (1 + mpmath.exp(y * x)))
    return values, gradients


def kl_div(log_q: np.ndarray, p: np.ndarray) -> tuple[list, list]:
    """`p (log p - x)` of each element, and its gradient with respect to `x`."""
    p = [mpmath.mpf(float(v)) for v in p]
    x = [mpmath.mpf(float(v)) for v in log_q]
    return [a * (mpmath.log(a) - b) if a else mpmath.mpf(0) for a, b in zip(p, x, strict=True)], [
        -a for a in p
    ]


def ctc_loss(logits: np.ndarray, labels: np.ndarray) -> tuple[mpmath.mpf, np.ndarray]:
    """`-log` of the probability of all alignments of the labels to the rows of logits, the blank being 0, and
    its gradient: products and sums of probabilities, forwards and backwards."""
    p = [_softmax(row) for row in logits]
    states = [0]
    for label in labels:
        states += [int(label), 0]
    num_states = len(states)
    may_skip = [i > 1 and states[i] != 0 and states[i] != states[i - 2] for i in range(num_states)] + [
        False
    ] * 2
    alpha, forwards = [mpmath.mpf(i == 0) for i in range(num_states)], []
    for t, row in enumerate(p):
        before = [0, 0, *alpha]
        arriving = [
            before[i + 2] + before[i + 1] + (before[i] if may_skip[i] else 0) for i in range(num_states)
        ]
        if t == 0:
            arriving = [mpmath.mpf(i < 2) for i in range(num_states)]
        alpha = [a * row[state] for a, state in zip(arriving, states, strict=True)]
        forwards.append(alpha)
    total = mpmath.fsum(alpha[-2:])
    gradient = np.zeros(logits.shape)
    beta = [mpmath.mpf(i >= num_states - 2) for i in range(num_states)]
    for t in reversed(range(len(p))):
        share = [mpmath.mpf(0)] * logits.shape[1]
        for i, state in enumerate(states):
            share[state] += forwards[t][i] * beta[i] / total
        gradient[t] = [float(own - labelled) for own, labelled in zip(p[t], share, strict=True)]
        leaving = [b * p[t][state] for b, state in zip(beta, states, strict=True)] + [0, 0]
        beta = [
            leaving[i] + leaving[i + 1] + (leaving[i + 2] if may_skip[i + 2] else 0)
            for i in range(num_states)
        ]
    return -mpmath.log(total), gradient


def _softmax(row: np.ndarray) -> list:
    return softmax([mpmath.mpf(float(z)) for z in row])


def softmax(z: list) -> list:
    """Probabilities of logits."""
    powers = [mpmath.exp(x) for x in z]
    total = mpmath.fsum(powers)
    return [power / total for power in powers]


def log_sum_exp(z) -> mpmath.mpf:
    """The logarithm of the softmax's denominator."""
    return mpmath.log(mpmath.fsum(mpmath.exp(x) for x in z))


def softplus(x) -> mpmath.mpf:
    """`log(1 + exp(x))`."""
    return mpmath.log1p(mpmath.exp(x))


def divergence(p: list, q: list) -> mpmath.mpf:
    """`KL(p || q)`; a probability of 0 contributes 0."""
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True) if a)


def sigmoid(x) -> mpmath.mpf:
    """The probability of log-odds."""
    return 1 / (1 + mpmath.exp(-x))


def flipped_logistic(margin, smoothing) -> mpmath.mpf:
    """Binary cross entropy with the probability `smoothing` of the opposite label."""
    return (1 - smoothing) * softplus(-margin) + smoothing * softplus(margin)


def dpo_loss(loss_type: str, chosen, rejected, beta, smoothing, tau) -> mpmath.mpf:
    """A variant of DPO from the log-ratios of the chosen and the rejected answer."""
    win, lose, margin, half = beta * chosen, beta * rejected, beta * (chosen - rejected), 1 / (2 * beta)
    q, p = (sigmoid(margin), sigmoid(-margin)), (1 - smoothing, smoothing)
    formulas = {
        "sigmoid": lambda: flipped_logistic(margin, smoothing),
        "hinge": lambda: max(1 - margin, mpmath.mpf(0)),
        "ipo": lambda: (chosen - rejected - half) ** 2,
        "robust": lambda: (p[0] * softplus(-margin) - p[1] * softplus(margin)) / (1 - 2 * smoothing),
        "exo_pair": lambda: mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(q, p, strict=True)),
        "nca_pair": lambda: softplus(-win) + softplus(win) / 2 + softplus(lose) / 2,
        "bco_pair": lambda: softplus(-win) + softplus(lose),
        "sppo_hard": lambda: (chosen - half) ** 2 + (rejected + half) ** 2,
        "apo_zero": lambda: 1 - sigmoid(win) + sigmoid(lose),
        "apo_down": lambda: sigmoid(win) + 1 - sigmoid(margin),
        "discopop": lambda: (
            sigmoid(-margin / tau) * softplus(-margin) + sigmoid(margin / tau) * mpmath.exp(-margin)
        ),
    }
    return formulas[loss_type]()


def odds_ratio_loss(log_p, log_q) -> mpmath.mpf:
    """`-log sigmoid` of the difference of the log-odds."""
    p, q = mpmath.exp(log_p), mpmath.exp(log_q)
    return softplus(mpmath.log(q / (1 - q)) - mpmath.log(p / (1 - p)))


def hessian(exact, *arrays) -> list[list[np.ndarray]]:
    """The blocks of second derivatives of `exact`, a function of lists: differences so fine that they are."""
    flat = [mpmath.mpf(float(v)) for array in arrays for v in array]
    ends = np.cumsum([0, *map(len, arrays)])
    step, size = mpmath.mpf(10) ** -30, len(flat)

    def at(*moves):
        moved = list(flat)
        for index, sign in moves:
            moved[index] += sign * step
        return exact(*(moved[i:j] for i, j in itertools.pairwise(ends)))

    whole = np.zeros((size, size))
    with mpmath.workdps(150):
        for i in range(size):
            whole[i, i] = (at((i, 1)) - 2 * at() + at((i, -1))) / step**2
            for j in range(i):
                same, opposite = (at((i, 1), (j, s)) + at((i, -1), (j, -s)) for s in (1, -1))
                whole[i, j] = whole[j, i] = (same - opposite) / (4 * step**2)
    parts = list(itertools.pairwise(ends))
    return [[whole[a:b, c:d] for c, d in parts] for a, b in parts]


def derivatives(exact, *arrays) -> tuple[mpmath.mpf, list, np.ndarray]:
    """The value of `exact`, a function of lists of one number each, its gradient and its Hessian."""
    point, step = [mpmath.mpf(float(array[0])) for array in arrays], mpmath.mpf(10) ** -30
    gradient = []
    with mpmath.workdps(150):
        for i in range(len(point)):
            ends = ([[x + sign * step * (i == j)] for j, x in enumerate(point)] for sign in (1, -1))
            gradient.append((exact(*next(ends)) - exact(*next(ends))) / (2 * step))
        value = exact(*([x] for x in point))
    return value, gradient, np.block(hessian(exact, *arrays))


def error_in_ulp(actual, truth) -> np.ndarray:
    """Elementwise distance in float32's units in the last place, at least that of its smallest normal."""
    actual = np.asarray(actual, np.float32)
    assert actual.shape == np.shape(truth)
    flat = []
    for a, b in zip(actual.ravel(), np.asarray(truth, dtype=object).ravel(), strict=True):
        rounded = np.float32(float(b)) if abs(b) < 3e38 else np.float32(3e38)
        unit = float(np.spacing(max(abs(rounded), np.float32(1.17549435e-38))))
        gap = abs(mpmath.mpf(float(a)) - b) if np.isfinite(a) else mpmath.inf
        # XLA may flush what is not a normal number to zero.
        flat.append(0.0 if max(abs(float(a)), abs(float(b))) < 1.18e-38 else float(gap) / unit)
    return np.array(flat).reshape(actual.shape)
