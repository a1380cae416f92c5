"""Priors by name, in units in which one strength serves every image, and those that other packages install."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob import likelihoods, priors
from invprob.errors import UsageError
from invprob.operators import (
    AbstractLinearOperator,
    Adjoint,
    Crop,
    Identity,
    StarletDetails,
)
from invprob.priors.capabilities import AbstractPrior

GROUP = "invprob.priors"
FIELDS = {
    "gaussian": "Gaussian field with a broken power law; its errors come with the best image (the default)",
    "lognormal": "exponential of a Gaussian field: positive, with structure on all scales",
}
"""Priors whose parameters are found by their evidence."""
SIGNIFICANCE = ((0.25, 4.0), (0.5, 2.0), (1.0, 1.2), (2.0, 1.0))
"""Strength of a starlet scale in units of the coarse ones, by the distance of its samples in data pixels: what is finer
than a data pixel is next to nothing but what sparsity itself makes up (measured, see the benchmarks)."""
LARGEST = 2.0  # data pixels between the samples of the last scale, where there are more than four
NUM_DRAWS = 8  # of the noise, for its standard deviation in each scale


class Setting(eqx.Module):
    """What a prior by name may know of the problem it is for.

    Parameters
    ----------
    likelihood
        Gaussian likelihood of one latent image.
    footprint
        The part of the latent grid under the data.
    unit
        Standard deviation of the noise of a data pixel, divided among its latent pixels.
    factor
        Latent pixels on a side of a data pixel.
    """

    likelihood: likelihoods.Gaussian
    footprint: Crop
    unit: Float[Array, ""]
    factor: int = eqx.field(static=True, default=1)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the latent image."""
        return self.footprint.shape  # type: ignore[return-value]

    @eqx.filter_jit
    def score_noise(self, W: AbstractLinearOperator) -> Float[Array, " planes"]:
        """Standard deviation over the footprint, in each plane, of ``W A.T N^-1 n`` for noise ``n ~ N(0, N)``.

        The gradient of the log-likelihood at the truth is ``A.T N^-1 n``: this is what it scatters by in the
        coefficients of W, in the inverse unit of the image. W gives images of the latent grid. From eight draws with a
        fixed key.
        """
        like = self.likelihood
        operator = like.operator
        assert isinstance(operator, AbstractLinearOperator)
        back, zero = Adjoint(operator), jnp.zeros_like(like.data)
        like = eqx.tree_at(lambda one: one.data, like, zero)
        inside = tuple(slice(a, b) for a, b in zip(self.footprint.starts, self.footprint.stops, strict=True))

        def squares(key):
            # the same draws in either precision
            noise = like.noise.inv(like.noise.sample(key, jnp.float32).astype(zero.dtype))
            u = W.apply(back.apply(noise))[(..., *inside)]
            return jnp.mean(u**2, axis=(-2, -1))

        keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
        return jnp.sqrt(jnp.mean(jax.lax.map(squares, keys), axis=0))


Make = Callable[[Setting, Float[Array, ""]], AbstractPrior]


@dataclass(frozen=True)
class NamedPrior:
    """A prior that is known by a name.

    Parameters
    ----------
    name, about
        Name on the command line, and what it is in one line.
    make
        From the setting and the strength (a positive number, larger means smoother) to the prior of an image.
    strength
        The strength that serves every image, because ``make`` measures in the noise of this one; None where it is not
        known and has to be found from the data.
    """

    name: str
    about: str
    make: Make
    strength: float | None = None
    provider: str = "invprob"


def total_variation(setting: Setting, strength: Float[Array, ""]) -> priors.TotalVariation:
    """Few edges: flat regions with sharp borders."""
    # a step between two pixels is to outweigh the noise of one
    return priors.TotalVariation(setting.shape, strength * setting.score_noise(Identity(setting.shape)))


def starlet(setting: Setting, strength: Float[Array, ""]) -> priors.StarletSparsity:
    """Few coefficients of the isotropic wavelet: galaxies and stars on an empty sky."""
    count = max(4, 1 + int(np.ceil(np.log2(LARGEST * setting.factor))))
    count = min(count, int(np.log2(min(setting.shape))))
    steps, sizes = zip(*SIGNIFICANCE, strict=True)
    scales = np.interp(np.log2(2.0 ** np.arange(count) / setting.factor), np.log2(steps), sizes)
    weights = setting.score_noise(StarletDetails(jnp.asarray(scales, setting.unit.dtype), setting.shape, "wrap"))
    return priors.StarletSparsity(setting.shape, strength, weights=weights, mode="wrap")


def wavelet(setting: Setting, strength: Float[Array, ""]) -> priors.WaveletSparsity:
    """Few coefficients of an orthogonal wavelet (Daubechies 4)."""
    return priors.WaveletSparsity(setting.shape, strength * setting.score_noise(Identity(setting.shape)))


def laplace(setting: Setting, strength: Float[Array, ""]) -> priors.Laplace:
    """Few bright pixels: point sources on an empty sky."""
    return priors.Laplace(1 / (strength * setting.score_noise(Identity(setting.shape))), setting.shape)


def points_and_starlet(setting: Setting, strength: Float[Array, ""]) -> priors.Product:
    """Point sources (few bright pixels) plus diffuse light (starlet), as two images."""
    diffuse = starlet(setting, strength)
    # light is a point where the starlet would pay more for it: points of this cost are taken where they fit better
    delta = jnp.zeros(setting.shape, setting.unit.dtype).at[setting.shape[0] // 2, setting.shape[1] // 2].set(1)
    price = POINTS * diffuse.norm.cost(diffuse.W.apply(delta))
    return priors.Product({"diffuse": diffuse, "points": priors.Laplace(1 / price, setting.shape)})


POINTS = 0.7  # price of a unit of flux in a point, of what the same point costs the starlet
BUILT_IN = {
    name: NamedPrior(name, (make.__doc__ or "").rstrip("."), make, strength)
    for name, make, strength in (
        ("starlet", starlet, 2.5),
        ("tv", total_variation, 1.0),
        ("wavelet", wavelet, None),
        ("laplace", laplace, None),
        ("points+starlet", points_and_starlet, 2.5),
    )
}


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def known_priors() -> dict[str, str]:
    """Name of each prior that takes a strength, and the package that provides it."""
    others = {name: _provider(entry) for name, entry in _installed().items() if name not in FIELDS}
    return {**others, **dict.fromkeys(BUILT_IN, "invprob")}


def _provider(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def named_prior(name: str) -> NamedPrior:
    """The prior of a name; an entry point of the group ``invprob.priors`` is loaded.

    Such an entry point is a function of a `Setting` and a strength that gives a prior of an image, described by the
    first line of its docstring. It may have an attribute ``strength``, the one that serves every image.

    Raises
    ------
    UsageError
        When there is no such prior, or it cannot be loaded.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    entry = _installed().get(name)
    if entry is None:
        raise UsageError(f"no prior is called {name!r}; there are {', '.join(known_priors())}")
    try:
        make: Any = entry.load()
    except Exception as error:  # whatever the other package does when it is imported
        raise UsageError(
            f"prior {name!r} of {_provider(entry)} cannot be loaded ({type(error).__name__}: {error}): repair or "
            "remove that package"
        ) from error
    if not callable(make):
        raise UsageError(
            f"prior {name!r} of {_provider(entry)} is a {type(make).__name__}; a function of the setting and the "
            "strength is needed"
        )
    about = (make.__doc__ or "").strip().split("\n")[0].rstrip(".")
    return NamedPrior(name, about, cast(Make, make), getattr(make, "strength", None), _provider(entry))


__all__ = ["BUILT_IN", "FIELDS", "GROUP", "NamedPrior", "Setting", "known_priors", "named_prior"]
