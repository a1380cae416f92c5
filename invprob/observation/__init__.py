"""What was observed: data, noise, mask, point spread function, and the grid that they are on."""

from invprob.observation.frame import Frame
from invprob.observation.observation import InputFile, Observation
from invprob.observation.psf import PSF

__all__ = ["PSF", "Frame", "InputFile", "Observation"]
