"""Bayesian imaging inverse problems on JAX."""
