"""Fluxes, positions, sizes and shapes of sources, with joint errors from the draws."""

from invprob.measure.measure import measure_image, measure_sources
from invprob.measure.measurement import Measurement

__all__ = [
    "Measurement",
    "measure_image",
    "measure_sources",
]
