"""Forward operators: from the latent image x to noiseless data."""

from invprob.operators.analysis import Gradient, Starlet, StarletDetails, Wavelet, starlet_norms
from invprob.operators.base import (
    AbstractLinearOperator,
    AbstractOperator,
    Adjoint,
    Composition,
    Identity,
    LinearComposition,
    Structure,
    compose,
)
from invprob.operators.convolve import CircularConvolve, Convolve, Shift, split_convolution, transfer_function
from invprob.operators.fourier import FourierSynthesis, frequencies, half_shape, isometry
from invprob.operators.function import Function, Jacobian
from invprob.operators.pointwise import Broadcast, Multiply
from invprob.operators.pytree import BlockDiagonal, Part, Stack, Sum, stack
from invprob.operators.resample import PixelBin
from invprob.operators.select import Crop, Pad, Select

__all__ = [
    "AbstractLinearOperator",
    "AbstractOperator",
    "Adjoint",
    "BlockDiagonal",
    "Broadcast",
    "CircularConvolve",
    "Composition",
    "Convolve",
    "Crop",
    "FourierSynthesis",
    "Function",
    "Gradient",
    "Identity",
    "Jacobian",
    "LinearComposition",
    "Multiply",
    "Pad",
    "Part",
    "PixelBin",
    "Select",
    "Shift",
    "Stack",
    "Starlet",
    "StarletDetails",
    "Structure",
    "Sum",
    "Wavelet",
    "compose",
    "frequencies",
    "half_shape",
    "isometry",
    "split_convolution",
    "stack",
    "starlet_norms",
    "transfer_function",
]
