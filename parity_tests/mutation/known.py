"""Mistakes that no test can notice, since what they change cannot be seen: the reason for each."""

EQUIVALENT = {
    "losses/correlation.py _standardise constant e6f93865": "an eighth keeps huge series finite too",
}
