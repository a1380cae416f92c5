"""Priors of a third party, written anew, are solved and sampled as the built-in ones, by what they declare alone."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import AbstractCovariance, Diagonal
from invprob.errors import CapabilityError
from invprob.evidence.laplace import laplace
from invprob.evidence.marginal import log_evidence
from invprob.operators import Function, Structure
from invprob.operators.base import compose
from invprob.optimize.choose import choose_solver
from invprob.optimize.find_map import find_map
from invprob.optimize.solvers import ADMM, NewtonCG, PrimalDual
from invprob.posterior import Posterior
from invprob.posterior.hierarchies import strength_hierarchy
from invprob.sampling import ScaleMixture, StrengthMixture
from invprob.sampling.sample import choose_sampler
from invprob.testing import check_prior, sparse_map
from tests.problems import largest_error, masked_problem, psf

KEY = jax.random.key(0)


class DoubleExponential(
    priors.HasLogProb, priors.HasSeparableProx, priors.HasConditionalGaussian, priors.HasStrength, priors.HasTransform
):
    """The Laplace distribution of another package."""

    scale: jax.Array
    shape: tuple[int, ...] = eqx.field(static=True)
    normalized: ClassVar[bool] = True

    @property
    def structure(self):
        return Structure(self.shape)

    @property
    def is_sharp(self):
        return True

    @property
    def is_smooth(self):
        return False

    @property
    def rank(self):
        return int(np.prod(self.shape))

    def cost(self, x):
        return jnp.sum(jnp.abs(x) / self.scale)

    def rescaled(self, factor):
        return DoubleExponential(self.scale / factor, self.shape)

    def log_prob(self, x):
        return -self.cost(x) - jnp.sum(jnp.broadcast_to(jnp.log(2 * self.scale), self.shape))

    def prox(self, v, step):
        return jnp.sign(v) * jnp.maximum(jnp.abs(v) - step / self.scale, 0)

    def inverse_scales(self, key, u):
        return priors.inverse_gaussian_scales(key, jnp.broadcast_to(1 / self.scale, u.shape), jnp.abs(u))

    def stiffness(self, u):
        return u / self.scale**2

    def barrier(self, x, kappa):
        a = kappa / self.scale
        root = jnp.sqrt(1 + (a * x) ** 2)
        return jnp.sum(1 + root - jnp.log(2 * (1 + root) / a**2)) / kappa, 2 * x.size

    @property
    def transform(self):
        return Function(_Quantiles(self.scale), self.shape)


class _Quantiles(eqx.Module):
    scale: jax.Array

    def __call__(self, xi):
        tail = jnp.log(2.0) + jax.scipy.special.log_ndtr(-jnp.abs(xi))
        return self.scale * jnp.where(xi < 0, tail, -tail)


class Exponentiated(priors.HasLogProb, priors.HasWhitening, priors.HasSample):
    """The log-normal distribution of another package."""

    field: priors.GaussianField
    normalized: ClassVar[bool] = True

    @property
    def structure(self):
        return self.field.structure

    def log_prob(self, x):
        return self.field.log_prob(jnp.log(x)) - jnp.sum(jnp.log(x))

    @property
    def transform(self):
        return compose(Function(jnp.exp, self.structure), self.field.transform)

    def whitened(self, x):
        return self.field.covariance.inv_sqrt(jnp.log(x))

    def sample(self, key):
        return jnp.exp(self.field.sample(key))

    def constrain(self, c, unit=1.0):
        return jnp.exp(c)

    def unconstrain(self, x, unit=1.0):
        return jnp.log(x)

    def log_jacobian(self, c, unit=1.0):
        return jnp.sum(c)


class Known(priors.HasPrecision):
    """A Gaussian that says no more of itself than its mean and covariance."""

    mean: Any
    covariance: AbstractCovariance

    @property
    def structure(self):
        return self.covariance.structure


class StudentT(priors.HasLogProb, priors.HasSeparableProx, priors.HasConditionalGaussian):
    """Independent Student numbers: smooth, with heavy tails, Gaussian given inverse variances of a Gamma law."""

    scale: jax.Array
    shape: tuple[int, ...] = eqx.field(static=True)
    degrees: float = eqx.field(static=True, default=4.0)
    normalized: ClassVar[bool] = True

    @property
    def structure(self):
        return Structure(self.shape)

    def log_prob(self, x):
        half, gammaln = (self.degrees + 1) / 2, jax.scipy.special.gammaln
        norm = gammaln(half) - gammaln(self.degrees / 2) - jnp.log(self.scale) - 0.5 * jnp.log(jnp.pi * self.degrees)
        return jnp.sum(norm - half * jnp.log1p((x / self.scale) ** 2 / self.degrees))

    def precision(self, x):
        return (self.degrees + 1) / (self.degrees * self.scale**2 + x**2)

    def prox(self, v, step):
        return jax.lax.fori_loop(0, 60, lambda _, x: v / (1 + step * self.precision(x)), v)

    def inverse_scales(self, key, u):
        half = (self.degrees + 1) / 2
        return jax.random.gamma(key, half, u.shape, u.dtype) * self.precision(u) / half

    def stiffness(self, u):
        return (self.degrees + 1) / (self.degrees + 3) / self.scale**2 * u


GRID = (8, 8)
LIKE = masked_problem(side=6, kernel=psf(2.5, 3)).likelihood
FIELD = priors.GaussianField(GRID, priors.PowerLaw(4.0, 0.1, 3.0))
SHARP = DoubleExponential(jnp.asarray(0.5), GRID), priors.Laplace(0.5, GRID)
POSITIVE = Exponentiated(FIELD), priors.LogNormal(FIELD)


def with_sky(prior):
    """Pixels and a sky level."""
    each = operators.BlockDiagonal({"image": LIKE.operator, "sky": operators.Broadcast((6, 6))})
    like = likelihoods.Gaussian(operators.Sum(each.out_structure) @ each, LIKE.data, LIKE.noise, LIKE.valid)
    return Posterior(like, priors.Product({"image": prior, "sky": priors.wide_gaussian(0.5, 3.0)}))


def image(prior):
    """Pixels alone."""
    return Posterior(LIKE, prior)


def on_a_gradient(prior):
    """Pixels that differ little."""
    gradient = operators.Gradient(GRID)
    return image(priors.Analysis(eqx.tree_at(lambda p: p.shape, prior, (2, *GRID)), gradient))


def chains(post, sampler, steps=3):
    """A few steps of two chains."""
    problem = eqx.filter_jit(sampler.prepare)(post)
    state, step = eqx.filter_jit(sampler.init)(problem, KEY, 2), eqx.filter_jit(sampler.step)
    for i in range(steps):
        state = step(problem, state, jax.random.fold_in(KEY, i))
    return state.position


def same(ours, theirs, rtol):
    """The same numbers, up to the rounding of formulas that are written another way."""
    assert largest_error(theirs, ours) < rtol


@pytest.mark.parametrize("prior", [
    DoubleExponential(jnp.asarray(0.7), (3, 4)), StudentT(jnp.asarray(0.7), (3, 4)), StudentT(jnp.asarray(0.7), (1,)),
    Exponentiated(priors.GaussianField((3, 4), priors.PowerLaw(1.0, 0.2, 2.0))),
    Known(jnp.ones(3), Diagonal(jnp.full(3, 2.0))),
])  # fmt: skip
def test_they_keep_the_contract(prior):
    check_prior(prior)


@pytest.mark.parametrize("made", [image, with_sky])
def test_all_choices_are_those_of_the_built_in(made):
    for written, built_in in (SHARP, POSITIVE):
        ours, theirs = made(built_in), made(written)
        for choose in (choose_solver, choose_sampler):
            (one, reason), (two, words) = choose(ours), choose(theirs)
            assert type(one) is type(two)
            assert words.replace(type(written).__name__, type(built_in).__name__) == reason


@pytest.mark.parametrize("made", [image, with_sky])
def test_the_best_image(made):
    theirs, ours = (made(prior) for prior in SHARP)
    for solver in (ADMM(), PrimalDual(), NewtonCG()):
        same(find_map(ours, solver, max_steps=30).x, find_map(theirs, solver, max_steps=30).x, 1e-9)
    same(sparse_map(ours), sparse_map(theirs), 1e-9)


@pytest.mark.parametrize("made", [image, with_sky])
def test_draws_by_gibbs_sampling(made):
    theirs, ours = (made(prior) for prior in SHARP)
    same(chains(ours, ScaleMixture(rtol=1e-20)), chains(theirs, ScaleMixture(rtol=1e-20)), 1e-8)


def test_draws_of_the_strength():
    theirs, ours = (strength_hierarchy(with_sky(prior)) for prior in SHARP)
    assert theirs.build.rank == ours.build.rank == 64
    theirs, ours = (chains(hierarchy, StrengthMixture(rtol=1e-20)) for hierarchy in (theirs, ours))
    same(ours.x, theirs.x, 1e-8)
    same(ours.theta, theirs.theta, 1e-8)


@pytest.mark.parametrize("made", [image, with_sky])
def test_newton_steps_from_a_given_image(made):
    theirs, ours = (made(prior) for prior in POSITIVE)
    start = ours.prior.sample(KEY)
    same(find_map(ours, NewtonCG(), start).x, find_map(theirs, NewtonCG(), start).x, 1e-8)


def test_the_laplace_evidence():
    theirs, ours = (image(prior) for prior in POSITIVE)
    one, two = (laplace(post, KEY, 4, 50) for post in (ours, theirs))
    assert two.log_evidence == pytest.approx(one.log_evidence, abs=1e-6)
    assert two.reason == one.reason.replace("LogNormal", "Exponentiated")
    for prior in SHARP:
        with pytest.raises(CapabilityError, match=f"under a {type(prior).__name__} prior: its density has kinks"):
            laplace(with_sky(prior), KEY)


def test_a_mean_and_a_covariance_are_a_gaussian_prior():
    level = jnp.full(GRID, 0.3)
    ours, theirs = image(priors.Gaussian(level, FIELD.covariance)), image(Known(level, FIELD.covariance))
    assert log_evidence(theirs) == log_evidence(ours)
    same(find_map(ours).x, find_map(theirs).x, 1e-12)
    one, two = (choose_sampler(with_sky(post.prior))[0] for post in (ours, theirs))
    assert type(one) is type(two)


def test_draws_under_another_mixture_than_a_norm():
    """Each pixel of a Student prior seen with noise, against quadrature."""
    y, sigma, prior = jnp.asarray([[0.5, 3.0]]), 0.6, StudentT(jnp.asarray(0.7), (1, 2))
    post = Posterior(likelihoods.Gaussian(operators.Identity((1, 2)), y, jnp.full((1, 2), sigma**2)), prior)
    sampler, number = ScaleMixture(num_warmup=20), 4000
    problem = sampler.prepare(post)

    def advance(state, key):
        state = sampler.step(problem, state, key)
        return state, state.position

    _, draws = jax.lax.scan(advance, sampler.init(problem, KEY, 4), jax.random.split(KEY, number))
    draws = np.asarray(draws)[20:].reshape(-1, 2)
    grid = np.linspace(-20, 20, 8001)
    t = np.log1p((grid / 0.7) ** 2 / 4.0) * -2.5
    for i in range(2):
        density = np.exp(t - 0.5 * ((grid - float(y[0, i])) / sigma) ** 2)
        mean = (density * grid).sum() / density.sum()
        std = np.sqrt((density * (grid - mean) ** 2).sum() / density.sum())
        assert abs(draws[:, i].mean() - mean) < 0.05 * std and draws[:, i].std() == pytest.approx(std, rel=0.05)
