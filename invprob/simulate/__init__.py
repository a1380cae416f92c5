"""Skies and observations to try things on."""

from invprob.simulate.pair import Pair, simulate_pair, write_pair

__all__ = ["Pair", "simulate_pair", "write_pair"]
