"""Small posteriors that the tests of inference share."""

import jax
import jax.numpy as jnp
import numpy as np

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.posterior import Posterior
from invprob.priors.denoiser import Spectrum, untrained


def psf(fwhm=2.5, size=5):
    """A round Gaussian PSF of sum one."""
    axis = jnp.arange(size) - size // 2
    profile = jnp.exp(-4 * jnp.log(2.0) * (axis[:, None] ** 2 + axis[None] ** 2) / fwhm**2)
    return profile / profile.sum()


def masked_problem(seed=0, side=16, kernel=None, amplitude=4.0, masked=0.2, sky=False, refine=1, truth=None):
    """A power-law field behind a PSF, with varying noise and masked pixels that hold NaN; perhaps a sky level."""
    keys = jax.random.split(jax.random.key(seed), 4)
    kernel = psf() if kernel is None else kernel
    reach = kernel.shape[0] // 2
    grid = (side * refine + 2 * reach,) * 2
    forward = operators.Convolve(kernel, grid)
    if refine > 1:
        forward = operators.PixelBin(refine, forward.out_structure.shape) @ forward
    prior = priors.GaussianField(grid, priors.PowerLaw(amplitude, 0.1, 3.0))
    if sky:
        each = operators.BlockDiagonal({"image": forward, "sky": operators.Broadcast((side, side))})
        forward = operators.Sum(each.out_structure) @ each
        prior = priors.Product({"image": prior, "sky": priors.wide_gaussian(0.5, 3.0)})
    variance = 0.05 * jnp.exp(jax.random.normal(keys[1], (side, side)))
    valid = jax.random.uniform(keys[2], (side, side)) >= masked
    truth = prior.sample(keys[0]) if truth is None else truth
    data = forward(truth) + jnp.sqrt(variance) * jax.random.normal(keys[3], (side, side))
    data, variance = (jnp.where(valid, a, jnp.nan) for a in (data, variance))
    return Posterior(likelihoods.Gaussian(forward, data, Diagonal(variance), valid), prior)


def learned_problem(side=8, **more):
    """A posterior with an untrained denoiser, and the same one with the Gaussian prior that this is."""
    base = masked_problem(side=side, amplitude=20.0, kernel=psf(3.0, 7), masked=0.1, **more)
    k = jnp.geomspace(0.005, 0.75, 80)
    denoiser = untrained(
        jax.random.key(0), Spectrum(k, jnp.log(base.prior.power(k))), 0.2, channels=(4, 6), blocks=1, embedding=8
    )
    prior = priors.DenoiserPrior(denoiser, base.structure.shape)
    return Posterior(base.likelihood, prior), Posterior(base.likelihood, prior.gaussian)


def periodic_problem(seed=0, shape=(8, 9)):
    """Periodic, evenly noisy and complete, as the Wiener filter needs it."""
    keys = jax.random.split(jax.random.key(seed), 2)
    operator = operators.CircularConvolve.from_kernel(psf(), shape)
    prior = priors.GaussianField(shape, priors.PowerLaw(4.0, 0.1, 3.0))
    data = operator(prior.sample(keys[0])) + 0.3 * jax.random.normal(keys[1], shape)
    return Posterior(likelihoods.Gaussian(operator, data, Diagonal(jnp.full(shape, 0.09))), prior)


def relative_gap(post, x, best):
    """``(f(x) - f*) / f*`` with f the negative log-posterior less its constants."""

    def objective(at):
        gaussian = post.prior.find(priors.HasPrecision)
        u = jax.tree.map(jnp.subtract, at, gaussian.mean)
        return 0.5 * float(post.likelihood.chi2(at)) + 0.5 * float(gaussian.covariance.quadratic(u))

    lowest = objective(best)
    return (objective(x) - lowest) / lowest


def largest_error(a, b):
    """Largest difference of two pytrees, relative to the largest value of the second."""
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (a, b)]
    return np.abs(flat[0] - flat[1]).max() / np.abs(flat[1]).max()
