"""Inference: the most probable image, draws of the posterior, and the evidence."""
