"""Arithmetic that does not cancel: softmax, divergences between softmaxes, log-odds, sums in two parts."""
