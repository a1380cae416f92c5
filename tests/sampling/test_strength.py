"""The strength of sparse priors and the scale of the noise, drawn with the image: against quadrature, and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, priors
from invprob.covariance import Diagonal
from invprob.diagnostics.rank_statistics import mean_ess
from invprob.errors import CapabilityError, UsageError
from invprob.operators import Identity
from invprob.posterior import Posterior
from invprob.posterior.hierarchies import strength_hierarchy, with_noise_scale, with_psf_width
from invprob.sampling.sample import sample
from invprob.sampling.samplers import StrengthMixture
from tests.optimize.sparse import cases
from tests.problems import masked_problem, psf

SIGMA = 0.4
GRID = np.linspace(-4, 4, 161)  # of the logarithm of the strength
PRIORS = {
    "tv": lambda: priors.TotalVariation((3, 3), 1.0),
    "tv, anisotropic": lambda: priors.TotalVariation((3, 3), 1.0, isotropic=False),
    "starlet, periodic": lambda: priors.StarletSparsity((3, 3), 1.0, 1, mode="wrap"),
    "starlet": lambda: priors.StarletSparsity((3, 3), 1.0, 1),
    "wavelet": lambda: priors.WaveletSparsity((2, 4), 1.0, "haar", 1),
    "laplace": lambda: priors.Laplace(1.0, (3, 3)),
    "groups": lambda: priors.GroupNorm(1.0, (2, 2, 2)),
}


def denoising(prior, seed=0, sigma=SIGMA):
    """A posterior of a step with white noise, so high that a flat image is out of the question."""
    shape = prior.structure.shape
    rng = np.random.default_rng(seed)
    data = np.zeros(shape)
    data[..., :1] = 3.0
    data += sigma * rng.standard_normal(shape)
    noise = Diagonal(jnp.full(shape, sigma**2))
    return Posterior(likelihoods.Gaussian(Identity(shape), jnp.asarray(data), noise), prior)


def moments(grid, log_density):
    """Mean and standard deviation of a density on a grid."""
    weights = np.exp(log_density - log_density.max())
    mean = np.sum(weights * grid) / weights.sum()
    return mean, np.sqrt(np.sum(weights * (grid - mean) ** 2) / weights.sum())


def by_quadrature(post, rank, number=200_000):
    """Mean and standard deviation of the logarithm of the strength, from Gaussian draws of the likelihood alone."""
    rng = np.random.default_rng(1)
    data = np.asarray(post.likelihood.data)
    x = data + SIGMA * rng.standard_normal((number, *data.shape))
    ((W, g),) = post.prior.find(priors.HasTerms).terms
    cost = np.asarray(jax.jit(jax.vmap(lambda x: g.cost(W.apply(x))))(jnp.asarray(x)))
    weights = np.array([np.exp(-np.exp(t) * (cost - cost.min())) for t in GRID])
    log_density = rank * GRID + np.log(weights.mean(1)) - np.exp(GRID) * cost.min()
    best = weights[log_density.argmax()]
    assert best.sum() ** 2 / (best**2).sum() > 2000  # effective draws
    return moments(GRID, log_density)


def known_rank(post):
    """That of the map to coefficients that count, from its matrix."""
    ((W, g),) = post.prior.find(priors.HasTerms).terms
    size = int(np.prod(post.structure.shape))
    eye = jnp.eye(size).reshape(size, *post.structure.shape)
    matrix = np.asarray(jax.vmap(W.apply)(eye)).reshape(size, -1)
    if isinstance(g, priors.L1Norm):
        matrix = matrix * np.asarray(g.weights).ravel()
    return np.linalg.matrix_rank(matrix)


def pull(draws, mean):
    """Monte-Carlo standard errors from a mean."""
    return abs(draws.mean() - mean) / (draws.std() / np.sqrt(mean_ess(draws[..., None])[0]))


@pytest.mark.parametrize("name", cases(PRIORS, "tv", "starlet"))
def test_the_strength_against_quadrature(name):
    """And not what another power of the strength in the constant gives."""
    post = denoising(PRIORS[name]())
    rank = known_rank(post)
    assert int(post.prior.rank) == rank
    found = sample(strength_hierarchy(post, np.exp(4)), jax.random.key(0), 12_000)
    assert found.solver == "strength"
    draws = np.asarray(found.latents["theta"]["log_strength"])
    mean, std = by_quadrature(post, rank)
    assert pull(draws, mean) < 4
    assert draws.std() == pytest.approx(std, rel=0.1)
    assert pull(draws, by_quadrature(post, rank + 1)[0]) > 6


def test_the_noise_as_well():
    """Laplace numbers with noise of unknown scale: both on a grid, in closed form but for one integral."""
    shape = (5, 8)
    rng = np.random.default_rng(3)
    data = rng.laplace(0, 1.0, shape) + SIGMA * rng.standard_normal(shape)
    like = likelihoods.Gaussian(Identity(shape), jnp.asarray(data), Diagonal(jnp.full(shape, SIGMA**2)))
    hierarchy = with_noise_scale(strength_hierarchy(Posterior(like, priors.Laplace(1.0, shape)), np.exp(3)), 3.0)
    found = sample(hierarchy, jax.random.key(0), 12_000)
    x = np.linspace(-12, 12, 4001)
    strengths, noises = np.linspace(-3, 3, 61), np.linspace(-np.log(3), np.log(3), 41)
    table = np.zeros((len(strengths), len(noises)))
    for j, noise in enumerate(noises):
        sigma = SIGMA * np.exp(noise)
        kernel = np.exp(-0.5 * ((data.ravel()[:, None] - x) / sigma) ** 2) / sigma
        for i, strength in enumerate(strengths):
            s = np.exp(strength)
            table[i, j] = np.sum(np.log(kernel @ np.exp(-s * np.abs(x)) * s))
    weights = np.exp(table - table.max())
    for name, grid, axis in (("log_strength", strengths, 1), ("log_noise", noises, 0)):
        mean, std = moments(grid, np.log(weights.sum(axis)))
        draws = np.asarray(found.latents["theta"][name])
        assert pull(draws, mean) < 4
        assert draws.std() == pytest.approx(std, rel=0.15)


def test_parts_of_a_product():
    """Gaussian parts stay as they are, and the strength of the others is one."""
    post = masked_problem(side=6, kernel=psf(2.5, 3), sky=True)
    shape = post.prior.parts["image"].structure.shape
    parts = {"image": priors.TotalVariation(shape, 2.0), "sky": post.prior.parts["sky"]}
    hierarchy = strength_hierarchy(Posterior(post.likelihood, priors.Product(parts)))
    built = hierarchy.build({"log_strength": jnp.log(3.0)}).prior
    np.testing.assert_allclose(built.parts["image"].strength, 6.0)
    assert built.parts["sky"] is parts["sky"]
    assert hierarchy.build.rank == np.prod(shape) - 1


@pytest.mark.parametrize(
    ("prior", "fragment"),
    [
        (lambda: priors.Positive(priors.TotalVariation((3, 3), 1.0), 0.0), "Positive offers"),
        (lambda: priors.Gaussian(None, Diagonal(jnp.ones((3, 3)))), "Gaussian offers"),
    ],
)
def test_priors_without_a_strength_are_refused(prior, fragment):
    with pytest.raises(CapabilityError, match=fragment):
        strength_hierarchy(denoising(prior()))
    with pytest.raises(UsageError, match="above one"):
        strength_hierarchy(denoising(priors.TotalVariation((3, 3), 1.0)), 0.5)


def test_other_hyperparameters_are_refused():
    kernel = psf(2.5, 3)
    post = masked_problem(side=6, kernel=kernel)
    sparse = Posterior(post.likelihood, priors.TotalVariation(post.structure.shape, 1.0))
    hierarchy = with_psf_width(strength_hierarchy(sparse), kernel, 0.1)
    with pytest.raises(CapabilityError, match="not those of PSFWidthModel"):
        StrengthMixture().prepare(hierarchy)
    with pytest.raises(CapabilityError, match="no sampler for this hierarchy"):
        sample(hierarchy, jax.random.key(0), 10)
