"""Mistakes that no test can notice, since what they change cannot be seen: the reason for each."""

EQUIVALENT: dict[str, str] = {}
