"""Mistakes that no test can notice, since what they change cannot be seen: the reason for each."""

_REASONS = {
    "fused/_opaque.py": {
        "_jvp.run constant 7ce38547": "jax.jvp passes on as many values as it is given",
    },
    "losses/correlation.py": {
        "_standardise constant e6f93865": "an eighth keeps huge series finite too",
        "_standardise comparison 51a95721": "a series of just that size is finite either way",
    },
    "losses/ctc.py": {
        "ctc_loss call f4cdcb81": "whatever is gathered for a label out of range, NaN replaces it",
        "_padded constant 30d8dfcb": "of a single axis, any number modulo 1 is the first",
    },
    "losses/embedding.py": {
        "_bounded_square factor 105e04f9": "squares of numbers up to 40 are finite too",
        "_bounded_square factor 33f3bf24": "squares of numbers up to 2 are finite too",
    },
    "losses/likelihood.py": {
        "poisson_nll_loss constant 015d5a35": "any number above 1 keeps the logarithm finite",
    },
    "losses/margin.py": {
        "_listed_hinge_jvp call e84096f7": "a slope made by comparisons has no derivative anyway",
    },
    "numerics/divergence.py": {
        "linear_growth comparison 24e4dfa1": "at one half, both ways are right to a rounding",
        "_bounded_growth constant 09143f2a": "exp(-1000) is 0 already",
    },
    "numerics/focal.py": {
        "_scale_down_easy_jvp constant 09143f2a": "exp(-1000) is 0 already",
        "_scale_down_easy_jvp constant 6666a74e": "exp(-1000) is 0 already, and any finite number times 0",
    },
    "numerics/log_odds.py": {
        "_label_log_odds_jvp constant 83beeb9e": "a softmax of equal logits, replaced by 0 besides",
    },
    "numerics/tangent.py": {
        "slope_times opposite 246ef09d": "a factor that enters twice, so that its sign cancels",
    },
}
EQUIVALENT = {
    f"{file} {mutant}": reason for file, reasons in _REASONS.items() for mutant, reason in reasons.items()
}
