"""The one list of operators, covariances, priors, solvers and samplers that the contract tests run over.

Each entry is a factory: called again, it gives the same structure with new arrays.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from invprob import covariance as cov
from invprob import operators as op
from invprob import optimize as solvers
from invprob import priors
from invprob import sampling as samplers
from invprob.optimize.solvers import (
    ADMM,
    ConjugateGradient,
    NewtonCG,
    Optax,
    PlugAndPlay,
    PrimalDual,
    ProximalGradient,
    TwoGrid,
    Wiener,
)
from invprob.priors.denoiser import Spectrum, untrained
from invprob.priors.generator import Generator

SHAPE = (6, 7)


class Keys:
    """Random keys, another one at each call, that begin anew with each test: what it draws is its own."""

    def __init__(self):
        self.begin("")

    def begin(self, name: str) -> None:
        """The keys of a test of this name."""
        self.keys = (jax.random.key(zlib.crc32(f"{name}, {i}".encode())) for i in itertools.count())

    def next(self) -> jax.Array:
        """The next key."""
        return next(self.keys)


KEYS = Keys()


def fresh(*shape: int) -> jax.Array:
    """White noise that differs at each call."""
    return jax.random.normal(KEYS.next(), shape)


def kernel(size: int = 3) -> jax.Array:
    """A lopsided PSF of sum one that differs at each call."""
    image = jnp.exp(fresh(size, size))
    return image / image.sum()


def spectrum(shape: tuple[int, int] = SHAPE) -> jax.Array:
    """A positive power spectrum that differs at each call."""
    return jnp.exp(fresh()) / (0.1 + op.frequencies(shape)) ** 2


def transfer(shape: tuple[int, int] = SHAPE) -> jax.Array:
    """The complex transfer function of a lopsided PSF."""
    return op.transfer_function(kernel(), shape)


class Saturation(eqx.Module):
    """A non-linear response with arrays of its own."""

    level: jax.Array

    def __call__(self, x):
        return self.level * jnp.tanh(x / self.level)


def saturation() -> op.Function:
    """`Saturation` as an operator."""
    return op.Function(Saturation(3.0 + fresh(*SHAPE) ** 2), SHAPE)


def convolve() -> op.Convolve:
    """A convolution without wrap-around."""
    return op.Convolve(kernel(), SHAPE)


def tree() -> dict[str, tuple[int, ...]]:
    """Shapes of an image and a sky level."""
    return {"image": SHAPE, "sky": ()}


def image_and_sky() -> Any:
    """A convolved image plus a sky level."""
    both = op.BlockDiagonal({"image": convolve(), "sky": op.Broadcast((4, 5))})
    return op.Sum(both.out_structure) @ both


VALID = np.random.default_rng(0).random(SHAPE) > 0.3

OPERATORS: dict[str, tuple[type, Callable[[], op.AbstractOperator]]] = {
    "Adjoint": (op.Adjoint, lambda: convolve().T),
    "Adjoint of FourierSynthesis": (op.Adjoint, lambda: op.FourierSynthesis(transfer(), SHAPE).T),
    "CircularConvolve": (op.CircularConvolve, lambda: op.CircularConvolve(transfer(), SHAPE)),
    "CircularConvolve, odd sides": (
        op.CircularConvolve,
        lambda: op.CircularConvolve.from_kernel(kernel(), (5, 9)),
    ),
    "CircularConvolve, real": (op.CircularConvolve, lambda: op.CircularConvolve(spectrum(), SHAPE)),
    "Composition": (op.Composition, lambda: convolve() @ saturation()),
    "Composition, twice": (op.Composition, lambda: saturation() @ op.Multiply(fresh(*SHAPE)) @ saturation()),
    "Convolve": (op.Convolve, convolve),
    "Crop": (op.Crop, lambda: op.Crop(SHAPE, (slice(1, 4), slice(0, 5)))),
    "BlockDiagonal": (op.BlockDiagonal, lambda: op.BlockDiagonal({"image": convolve(), "sky": op.Broadcast((3,))})),
    "Broadcast": (op.Broadcast, lambda: op.Broadcast(SHAPE)),
    "FourierSynthesis": (op.FourierSynthesis, lambda: op.FourierSynthesis(jnp.sqrt(spectrum()), SHAPE)),
    "FourierSynthesis, complex": (op.FourierSynthesis, lambda: op.FourierSynthesis(transfer(), SHAPE)),
    "FourierSynthesis, even sides": (
        op.FourierSynthesis,
        lambda: op.FourierSynthesis(transfer((6, 8)), (6, 8)),
    ),
    "Function": (op.Function, saturation),
    "Gradient": (op.Gradient, lambda: op.Gradient((5, 6))),
    "Identity": (op.Identity, lambda: op.Identity(SHAPE)),
    "Identity of a pytree": (op.Identity, lambda: op.Identity(tree())),
    "Jacobian": (op.Jacobian, lambda: saturation().linearize(fresh(*SHAPE))),
    "LinearComposition": (
        op.LinearComposition,
        lambda: op.PixelBin(2, (4, 4)) @ op.Convolve(kernel(), (6, 6)),
    ),
    "LinearComposition, image and sky": (op.LinearComposition, image_and_sky),
    "Multiply": (op.Multiply, lambda: op.Multiply(fresh(*SHAPE))),
    "Multiply, complex": (op.Multiply, lambda: op.Multiply(fresh(*SHAPE) + 1j * fresh(*SHAPE))),
    "Multiply by a number": (op.Multiply, lambda: op.Multiply(fresh(), SHAPE)),
    "Multiply of a half-spectrum": (
        op.LinearComposition,
        lambda: op.FourierSynthesis(transfer(), SHAPE) @ op.Multiply(transfer()),
    ),
    "Pad": (op.Pad, lambda: op.Pad((9, 8), (slice(2, 8), slice(0, 7)))),
    "Part": (op.Part, lambda: op.Part("sky", tree())),
    "PixelBin": (op.PixelBin, lambda: op.PixelBin(3, (6, 9))),
    "Select": (op.Select, lambda: op.Select(VALID)),
    "Shift": (op.Shift, lambda: op.Shift(fresh(2), SHAPE)),
    "Shift, even sides": (op.Shift, lambda: op.Shift(fresh(2), (6, 8))),
    "Starlet": (op.Starlet, lambda: op.Starlet(SHAPE, 2)),
    "Starlet, periodic": (op.Starlet, lambda: op.Starlet((8, 9), 3, "wrap")),
    "StarletDetails": (op.StarletDetails, lambda: op.StarletDetails(fresh(2), SHAPE)),
    "StarletDetails, periodic": (op.StarletDetails, lambda: op.StarletDetails(fresh(2), SHAPE, "wrap")),
    "Stack": (op.Stack, lambda: op.stack([convolve(), op.Multiply(fresh(*SHAPE)), op.Identity(SHAPE)])),
    "Sum": (op.Sum, lambda: op.Sum({"a": SHAPE, "b": SHAPE})),
    "Wavelet": (op.Wavelet, lambda: op.Wavelet((8, 6), "haar", 2)),
    "Wavelet, odd sides": (op.Wavelet, lambda: op.Wavelet((7, 5), "db4", 2)),
}


def diagonal(*shape: int) -> cov.Diagonal:
    """A diagonal covariance."""
    return cov.Diagonal(jnp.exp(fresh(*shape)))


def stationary() -> cov.Stationary:
    """A stationary covariance."""
    return cov.Stationary(spectrum(), SHAPE)


COVARIANCES: dict[str, tuple[type, Callable[[], cov.AbstractCovariance]]] = {
    "Blocks": (cov.Blocks, lambda: cov.Blocks({"image": stationary(), "sky": diagonal()})),
    "Blocks of diagonals": (cov.Blocks, lambda: cov.Blocks((diagonal(3, 2), diagonal(4)))),
    "Diagonal": (cov.Diagonal, lambda: diagonal(*SHAPE)),
    "Diagonal, masked": (cov.Diagonal, lambda: diagonal(*SHAPE).masked(VALID)),
    "Stationary": (cov.Stationary, stationary),
    "Stationary, even sides": (cov.Stationary, lambda: cov.Stationary(spectrum((6, 8)), (6, 8))),
}


def field(shape: tuple[int, int] = SHAPE) -> priors.GaussianField:
    """A Gaussian field with a power law."""
    return priors.GaussianField(shape, priors.PowerLaw(2.0 + fresh() ** 2, 0.2, 3.0))


def mixture(sigma: float = 0.1, wide: float = 2.0, share: float = 0.3) -> Any:
    """A narrow and a wide normal distribution: spike and slab."""
    import tensorflow_probability.substrates.jax.distributions as tfd

    weights = tfd.Categorical(probs=jnp.asarray([1 - share, share]))
    return tfd.MixtureSameFamily(weights, tfd.Normal(jnp.zeros(2), jnp.asarray([sigma, wide])))


def laplace(*shape: int) -> Any:
    """A TFP distribution with a number for each pixel."""
    import tensorflow_probability.substrates.jax.distributions as tfd

    return tfd.Laplace(fresh(*shape), 1.0 + fresh(*shape) ** 2)


def positive(*shape: int) -> jax.Array:
    """Positive numbers that differ at each call."""
    return jnp.exp(0.3 * fresh(*shape))


def denoiser(shape: tuple[int, int] = SHAPE) -> priors.DenoiserPrior:
    """A learned prior that has seen nothing: a Gaussian one, which does not say so."""
    k = jnp.geomspace(0.01, 0.75, 30)
    table = Spectrum(k, jnp.log((2.0 + fresh() ** 2) / (1 + (k / 0.2) ** 2) ** 1.5))
    network = untrained(KEYS.next(), table, fresh(), channels=(4, 6), blocks=1, embedding=8)
    return priors.DenoiserPrior(network, shape)


def generator() -> priors.GeneratorPrior:
    """A prior of four numbers, whose flow does something."""
    made = Generator(KEYS.next(), size=8, code=4, channels=8, couplings=2, hidden=8, softness=0.3)
    last = made.flow[0].second.weight
    made = eqx.tree_at(
        lambda g: g.flow[0].second.weight, made, 0.3 * jax.random.normal(jax.random.key(0), last.shape, last.dtype)
    )
    return priors.GeneratorPrior(made, (8, 8))


PRIORS: dict[str, tuple[type, Callable[[], priors.AbstractPrior]]] = {
    "Analysis": (
        priors.Analysis,
        lambda: priors.Analysis(priors.Laplace(positive(2, 1, 1), (2, *SHAPE)), op.Gradient(SHAPE)),
    ),
    "Blurred": (priors.Blurred, lambda: denoiser().at(0.3)),
    "DenoiserPrior": (priors.DenoiserPrior, denoiser),
    "Exponential": (priors.Exponential, lambda: priors.Exponential(positive(*SHAPE), SHAPE)),
    "Exponential, one pixel": (priors.Exponential, lambda: priors.Exponential(positive(), (1,))),
    "FromTFP": (priors.FromTFP, lambda: priors.FromTFP(laplace(*SHAPE), SHAPE)),
    "FromTFP, one pixel": (priors.FromTFP, lambda: priors.FromTFP(laplace(), (1,))),
    "FromTFP, mixture": (priors.FromTFP, lambda: priors.FromTFP(mixture(0.1 + float(fresh()) ** 2), (2,))),
    "GaussianRegularized": (
        priors.GaussianRegularized,
        lambda: priors.GaussianRegularized(priors.TotalVariation((5, 4), positive()), positive()),
    ),
    "Gaussian": (priors.Gaussian, lambda: priors.Gaussian(fresh(*SHAPE), stationary())),
    "Gaussian, diagonal": (priors.Gaussian, lambda: priors.Gaussian(fresh(*SHAPE), diagonal(*SHAPE))),
    "Gaussian, flat": (priors.Gaussian, lambda: priors.wide_gaussian(fresh(), 3.0)),
    "GaussianField": (priors.GaussianField, field),
    "GroupNorm": (priors.GroupNorm, lambda: priors.GroupNorm(positive(3), (3, 2, 3))),
    "GroupNorm, one pair": (priors.GroupNorm, lambda: priors.GroupNorm(positive(), (2, 1))),
    "L1Norm": (priors.L1Norm, lambda: priors.L1Norm(positive(*SHAPE) * VALID, SHAPE)),
    "Laplace": (priors.Laplace, lambda: priors.Laplace(positive(*SHAPE), SHAPE)),
    "Laplace, two numbers": (priors.Laplace, lambda: priors.Laplace(positive(), (2,))),
    "LogNormal": (priors.LogNormal, lambda: priors.LogNormal(field())),
    "LogNormal, one pixel": (
        priors.LogNormal,
        lambda: priors.LogNormal(priors.Gaussian(fresh(1), cov.Diagonal(positive(1)))),
    ),
    "GeneratorPrior": (priors.GeneratorPrior, generator),
    "LowerBound": (priors.LowerBound, lambda: priors.LowerBound(SHAPE)),
    "LowerBound, below zero": (priors.LowerBound, lambda: priors.LowerBound(SHAPE, -positive())),
    "LowerBound, sparse": (
        priors.LowerBound,
        lambda: priors.LowerBound(SHAPE, -positive(), priors.Laplace(positive(), SHAPE)),
    ),
    "Positive field": (priors.Positive, lambda: priors.Positive(field())),
    "Positive, sparse": (priors.Positive, lambda: priors.Positive(priors.Laplace(positive(), SHAPE))),
    "Positive total variation": (
        priors.Positive,
        lambda: priors.Positive(priors.TotalVariation(SHAPE, positive())),
    ),
    "Product": (
        priors.Product,
        lambda: priors.Product({"image": field(), "sky": priors.Gaussian(fresh(), diagonal())}),
    ),
    "Product with a mixture": (
        priors.Product,
        lambda: priors.Product((priors.FromTFP(laplace(), (1,)), priors.Gaussian(fresh(1), diagonal(1)))),
    ),
    "Product with terms": (
        priors.Product,
        lambda: priors.Product(
            {"image": priors.Exponential(positive(), (4, 5)), "sky": priors.wide_gaussian(fresh(), 3.0)}
        ),
    ),
    "StarletSparsity": (priors.StarletSparsity, lambda: priors.StarletSparsity(SHAPE, positive(), 2)),
    "StarletSparsity, periodic": (
        priors.StarletSparsity,
        lambda: priors.StarletSparsity(SHAPE, positive(), weights=positive(2), mode="wrap"),
    ),
    "TotalVariation": (priors.TotalVariation, lambda: priors.TotalVariation((5, 6), positive())),
    "TotalVariation, along the axes": (
        priors.TotalVariation,
        lambda: priors.TotalVariation(SHAPE, positive(), isotropic=False),
    ),
    "WaveletSparsity": (priors.WaveletSparsity, lambda: priors.WaveletSparsity((8, 6), positive(), "haar", 2)),
    "WaveletSparsity, odd sides": (priors.WaveletSparsity, lambda: priors.WaveletSparsity((7, 5), positive())),
}

_ADAM = optax.adam(3e-2)
_MOMENTUM = optax.sgd(0.1, momentum=0.9, nesterov=True)

SOLVERS: dict[str, tuple[type, Callable[[], solvers.AbstractSolver]]] = {
    "admm": (ADMM, ADMM),
    "cg": (ConjugateGradient, ConjugateGradient),
    "lbfgs": (Optax, Optax),
    "adam": (Optax, lambda: Optax(_ADAM, rtol=1e-4)),
    "newton": (NewtonCG, NewtonCG),
    "pdhg": (PrimalDual, PrimalDual),
    "plugplay": (PlugAndPlay, lambda: PlugAndPlay(rtol=1e-3)),
    "proximal": (ProximalGradient, ProximalGradient),
    "momentum": (Optax, lambda: Optax(_MOMENTUM, rtol=1e-6)),
    "twogrid": (TwoGrid, lambda: TwoGrid((20, 20), rtol=1e-9)),
    "wiener": (Wiener, Wiener),
}

SAMPLERS: dict[str, tuple[type, Callable[[], samplers.AbstractSampler]]] = {
    "conditioned": (
        samplers.ConstrainedRealization,
        lambda: samplers.ConstrainedRealization(TwoGrid((10, 10), rtol=1e-7)),
    ),
    "filtered": (samplers.Filtered, samplers.Filtered),
    "gibbs": (samplers.ScaleMixture, samplers.ScaleMixture),
    "hmc": (samplers.HMC, samplers.HMC),
    "langevin": (samplers.Langevin, samplers.Langevin),
    "messenger": (samplers.Messenger, lambda: samplers.Messenger(num_moves=2)),
    "nuts": (samplers.NUTS, samplers.NUTS),
    "perturbed": (samplers.PerturbationOptimization, samplers.PerturbationOptimization),
    "split": (samplers.Split, lambda: samplers.Split(steps=3)),
    "strength": (samplers.StrengthMixture, samplers.StrengthMixture),
}

# what each list has to cover: every final public class of these names
COVERAGE: dict[str, tuple[Any, type, dict[str, tuple[type, Callable[[], Any]]]]] = {
    "operators": (op, op.AbstractOperator, OPERATORS),
    "covariance": (cov, cov.AbstractCovariance, COVARIANCES),
    "priors": (priors, priors.AbstractPrior, PRIORS),
    "solvers": (solvers, solvers.AbstractSolver, SOLVERS),
    "samplers": (samplers, samplers.AbstractSampler, SAMPLERS),
}
