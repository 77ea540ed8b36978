"""Losses as their papers write them, of mpmath numbers: what derivatives are taken of in 50 digits."""

import mpmath

from parity_tests.losses.oracle import divergence, log_sum_exp, softmax, softplus


def nll(z, label=0):
    return log_sum_exp(z) - z[label]


def total(terms):
    return mpmath.fsum(terms)


def jensen_shannon(x, y):
    p, q = softmax(x), softmax(y)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (divergence(p, middle) + divergence(q, middle)) / 2


def total_variation(x, y):
    return total(abs(a - b) for a, b in zip(softmax(x), softmax(y), strict=True)) / 2


def logistic(x, y):
    return total(b * softplus(-a) + (1 - b) * softplus(a) for a, b in zip(x, y, strict=True))


def of_probabilities(p, y):
    """At a probability of 0 or 1, with a target that agrees, what differences cannot see is left out."""
    terms = zip(p, y, strict=True)
    return -total((b and b * mpmath.log(a)) + ((1 - b) and (1 - b) * mpmath.log(1 - a)) for a, b in terms)


def dot(a, b):
    return total(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / mpmath.sqrt(dot(a, a) * dot(b, b))


def distance(a, b):
    gap = [x - y + mpmath.mpf("1e-6") for x, y in zip(a, b, strict=True)]
    return mpmath.sqrt(dot(gap, gap))


def correlation(x, y):
    return cosine(*([v - total(row) / len(row) for v in row] for row in (x, y)))


def ctc(frames):
    """The labels 1, 2 in three frames: all alignments to them."""
    p = [[mpmath.exp(v) for v in frames[i : i + 3]] for i in (0, 3, 6)]
    paths = [(1, 1, 2), (1, 2, 2), (0, 1, 2), (1, 0, 2), (1, 2, 0)]
    return -mpmath.log(total(p[0][a] * p[1][b] * p[2][c] for a, b, c in paths))


def log_gamma(x, y):
    """Stirling's approximation, for counts above 1."""
    many = (b * mpmath.log(b) - b + mpmath.log(2 * mpmath.pi * b) / 2 for b in y if b > 1)
    return total(mpmath.exp(a) - b * a for a, b in zip(x, y, strict=True)) + total(many)
