"""Priors by name."""
