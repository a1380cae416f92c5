"""Variational approximations against dense posteriors, quadrature and the exact evidence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

from invprob import likelihoods, loop, operators, priors
from invprob.covariance import Diagonal, dense, dense_operator
from invprob.errors import CapabilityError, InputError, UsageError
from invprob.evidence.marginal import log_evidence
from invprob.operators.base import zeros
from invprob.posterior import Posterior
from invprob.results import Status
from invprob.sampling.coordinates import Coordinates, Unconstrained, coordinates
from invprob.testing import dense_posterior
from invprob.variational.base import (
    AbstractDistribution,
    Approximation,
    Draws,
    TargetDensity,
    Variational,
    judged,
    target_density,
)
from invprob.variational.circulant import CirculantGaussian
from invprob.variational.fit import fit_variational
from invprob.variational.flow import Flow
from invprob.variational.lanczos import log_determinant, log_volume
from invprob.variational.local_gaussian import whitened
from invprob.variational.low_rank import LowRank, LowRankNormal
from invprob.variational.mean_field import DiagonalNormal, MeanField
from invprob.variational.metric_gaussian import MetricGaussian, averaged
from tests.problems import largest_error, masked_problem, periodic_problem

KEY = jax.random.key(0)
near_white = eqx.filter_jit(coordinates)


@pytest.fixture(scope="module")
def masked():
    """A posterior of 8 x 8 pixels, and its standard deviations."""
    post = masked_problem(side=4)
    return post, np.sqrt(np.diag(dense_posterior(post)[1])).reshape(post.structure.shape)


def white_coordinates(post):
    """Those of the prior, in which nothing is known of the data."""
    one = operators.CircularConvolve(jnp.ones(operators.half_shape(post.structure.shape)), post.structure.shape)
    return Coordinates(post.whiten(), one, zeros(post.structure, float))


def one_pixel(y=3.0, sigma=0.3, spread=0.5, shape=(1, 1)):
    """Log-normal pixels, ``log x ~ N(0, spread)``, each seen as y with the error sigma."""
    field = priors.Gaussian(None, Diagonal(jnp.full(shape, spread)))
    like = likelihoods.Gaussian(operators.Identity(shape), jnp.full(shape, y), jnp.full(shape, sigma**2))
    return Posterior(like, priors.LogNormal(field))


def quadrature(post):
    """Log evidence, mean and standard deviation of a pixel of `one_pixel`."""
    xi = np.linspace(-9, 9, 20001)
    shape = post.structure.shape
    one = Posterior(
        likelihoods.Gaussian(
            operators.Identity((1, 1)), post.likelihood.data[:1, :1], post.likelihood.noise.variance[:1, :1]
        ),
        priors.LogNormal(priors.Gaussian(None, Diagonal(post.prior.field.covariance.variance[:1, :1]))),
    )
    white = one.whiten()
    at = jnp.asarray(xi)[:, None, None]
    density, x = np.exp(jax.vmap(white.log_prob)(at)), np.ravel(jax.vmap(white.latent)(at))
    total = np.trapezoid(density, xi)
    mean = np.trapezoid(density * x, xi) / total
    return np.prod(shape) * np.log(total), mean, np.sqrt(np.trapezoid(density * (x - mean) ** 2, xi) / total)


# --- the bound ---------------------------------------------------------------------------------------------------


class Full(AbstractDistribution):
    """Any Gaussian, by its mean and the root of its covariance."""

    mean: jax.Array
    root: jax.Array

    def log_prob(self, c):
        z = jnp.linalg.solve(self.root, c - self.mean)
        return -0.5 * (z @ z + c.size * jnp.log(2 * jnp.pi)) - jnp.linalg.slogdet(self.root)[1]

    def draws(self, key, num):
        d = jax.random.normal(key, (num, self.mean.size)) @ self.root.T
        return Draws(self.mean + d, self.mean - d, jnp.ones(num, bool))


def elbo(post, target, q, num=100):
    found = judged(Variational, post, Approximation(target, q, jnp.zeros(())), KEY, num, Status.CONVERGED, solver="",
                   reason="", steps=0)  # fmt: skip
    return found.elbo, found.elbo_error


def test_the_bound_is_the_evidence_for_the_posterior_itself(masked):
    """With the Jacobian of coordinates that have no known determinant; every other q is below."""
    post, _ = masked
    mean, covariance = dense_posterior(post)
    where = near_white(post)
    target = target_density(where, KEY)
    inverse = np.linalg.inv(dense_operator(where.T))
    flat = [np.asarray(ravel_pytree(a)[0]) for a in (mean, where.origin)]
    centre, root = inverse @ (flat[0] - flat[1]), inverse @ np.linalg.cholesky(covariance)
    exact = log_evidence(post)
    value, error = elbo(post, target, Full(jnp.asarray(centre), jnp.asarray(root)))
    assert value == pytest.approx(exact, abs=1e-6) and error < 1e-6
    for other in (
        Full(jnp.asarray(centre + 0.1), jnp.asarray(root)),
        Full(jnp.asarray(centre), jnp.asarray(0.9 * root)),
    ):
        value, error = elbo(post, target, other)
        assert value + 4 * error < exact
    without = TargetDensity(target.where, jnp.zeros(()), jnp.zeros(()))  # the control
    assert abs(elbo(post, without, Full(jnp.asarray(centre), jnp.asarray(root)))[0] - exact) > 1


@pytest.mark.parametrize(
    "prior",
    [
        priors.LogNormal(priors.Gaussian(None, Diagonal(jnp.full((1, 1), 0.5)))),
        priors.Exponential(1.5, (1, 1)),
        priors.Laplace(1.5, (1, 1)),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_the_joint_density_integrates_to_the_evidence(prior):
    """In the coordinates of each kind of prior, whose Jacobians differ; against the integral over x."""
    like = likelihoods.Gaussian(operators.Identity((1, 1)), jnp.full((1, 1), 0.8), jnp.full((1, 1), 0.25))
    post = Posterior(like, prior)
    target = target_density(near_white(post), KEY)
    c, x = np.linspace(-40, 40, 400001), np.linspace(-10, 15, 400001) + 1e-7
    in_c = np.trapezoid(np.exp(jax.vmap(lambda a: target.log_joint(a[None]))(c)), c)
    in_x = np.trapezoid(np.exp(jax.vmap(lambda a: post.log_prob(jnp.full((1, 1), a)))(x)), x)
    assert in_c == pytest.approx(in_x, rel=1e-4)


# --- families ----------------------------------------------------------------------------------------------------


def test_metric_gaussian_is_the_linear_gaussian_posterior():
    post = masked_problem(side=8, sky=True)
    mean, covariance = dense_posterior(post)
    found = fit_variational(post, KEY)
    assert found.solver == "metric" and found.status is Status.CONVERGED and found.reliable
    assert largest_error(found.mean, mean) < 1e-5
    std = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.latent_std)])
    ratio = std / np.sqrt(np.diag(covariance))
    assert abs(ratio.mean() - 1) < 0.02 and np.abs(ratio - 1).max() < 5 * found.std_error
    assert found.elbo == pytest.approx(log_evidence(post), abs=1e-6)
    assert found.normalized and found.elbo_error < 1e-6


def test_low_rank_of_full_rank_is_the_posterior(masked):
    post, std = masked
    found = fit_variational(post, KEY, LowRank(64), num_samples=2000)
    ratio = found.std / std
    assert abs(ratio.mean() - 1) < 0.02 and np.abs(ratio - 1).max() < 0.05 + 4 * found.std_error
    exact = log_evidence(post)
    assert exact - 1 < found.elbo < exact + 4 * found.elbo_error
    assert found.reliable and found.status is Status.CONVERGED
    assert largest_error(found.mean, dense_posterior(post)[0]) < 0.02


def test_circulant_gaussian_is_a_stationary_posterior():
    """Begun from the prior; in its own coordinates it begins where it ends, but for what Adam makes of rounding."""
    post = periodic_problem()
    mean, covariance = dense_posterior(post)
    std, exact = np.sqrt(np.diag(covariance)).reshape(post.structure.shape), log_evidence(post)
    for where, lost in ((white_coordinates(post), 0.1), (None, 0.01)):
        found = fit_variational(post, KEY, CirculantGaussian(), coordinates=where, num_steps=None if where else 8)
        assert abs((found.std / std).mean() - 1) < 0.02
        assert exact - lost < found.elbo < exact + 4 * found.elbo_error + 1e-6
        assert found.reliable and largest_error(found.mean, mean) < 0.02


def test_mean_field_is_too_narrow_and_says_so(masked):
    """In the pixels themselves, correlated under the posterior: each has its deviation with the others held fixed."""
    post, std = masked
    mean, covariance = dense_posterior(post)
    pixels = Coordinates(Unconstrained(post, jnp.ones(())), operators.Identity(post.structure), mean)
    found = fit_variational(post, KEY, MeanField(), coordinates=pixels)
    fixed = 1 / np.sqrt(np.diag(np.linalg.inv(covariance)))
    np.testing.assert_allclose(np.exp(found.approximation.q.log_std), fixed, rtol=0.08)
    assert (found.std / std).mean() < 0.7 and (found.std / std).max() < 0.9
    assert found.status is Status.NOT_RELIABLE and not found.status.ok
    assert found.khat > found.threshold and "k-hat" in found.failures[0]
    assert found.elbo + 4 * found.elbo_error < log_evidence(post)
    draws = np.asarray(found.sample(jax.random.key(5), 120))
    assert draws.shape == (120, 8, 8)
    assert np.mean(draws.var(0) / found.std**2) == pytest.approx(1, abs=5 * np.sqrt(2 / (119 * 64)))


def test_a_flow_bends():
    """Two log-normal pixels at low signal to noise, which no Gaussian of xi fits so well."""
    post = one_pixel(0.6, 0.5, shape=(1, 2))
    exact, mean, std = quadrature(post)
    found = fit_variational(post, KEY, Flow(3, 16), num_samples=4000, num_steps=1000, learning_rate=0.01)
    assert found.elbo == pytest.approx(exact, abs=0.01 + 4 * found.elbo_error)
    np.testing.assert_allclose(found.mean, mean, atol=0.03 * std)
    np.testing.assert_allclose(found.std, std, rtol=0.02 + 4 * found.std_error)
    assert found.elbo_error < 0.005


def test_metric_gaussian_of_a_log_normal_pixel():
    post = one_pixel()
    exact, mean, std = quadrature(post)
    found = fit_variational(post, KEY, num_draws=32)
    assert found.status in (Status.CONVERGED, Status.NOT_RELIABLE) and found.history[-1]["change"] < 0.01
    np.testing.assert_allclose(found.mean, mean, atol=0.1 * std)
    np.testing.assert_allclose(found.std, std, rtol=0.05 + 4 * found.std_error)
    assert exact - 0.05 < found.elbo < exact + 4 * found.elbo_error


def test_the_sampled_objective_is_the_average():
    post = one_pixel(shape=(1, 2))
    problem = whitened(post, "the test")
    d = jnp.asarray([[[0.3, -0.2]], [[-0.3, 0.2]]])
    smooth = averaged(problem, d)
    at = [jnp.asarray([[0.1, 0.4]]), jnp.asarray([[1.0, -0.3]])]
    mean = [jnp.mean(jax.vmap(lambda e, x=x: problem.log_prob(x + e))(d)) for x in at]
    assert float(smooth.log_prob(at[0]) - smooth.log_prob(at[1])) == pytest.approx(float(mean[0] - mean[1]), rel=1e-9)


# --- determinants, densities, and what is refused ------------------------------------------------------------------


def test_log_determinants_are_those_of_the_matrix():
    """By quadrature with few probes, so that it is not exact; the pulls of six keys have unit scatter."""
    system = masked_problem(side=8).linear_gaussian()
    exact = log_determinant(system.precision, KEY, 64, float)
    dense = np.linalg.slogdet(dense_operator(system.precision))[1]
    assert exact.error == 0 and exact.value == pytest.approx(dense, abs=1e-8)
    found = [log_determinant(system.precision, jax.random.key(k), 8, float, steps=16) for k in range(6)]
    pulls = np.array([(f.value - dense) / f.error for f in found])
    assert 0.3 < np.sqrt(np.mean(pulls**2)) < 2.5
    assert 0 < np.mean([f.error for f in found]) < 0.1 * abs(dense)
    root = priors.GaussianField((5, 6), priors.PowerLaw(4.0, 0.1, 3.0)).covariance.sqrt
    assert log_volume(root, KEY, float).value == pytest.approx(np.linalg.slogdet(dense_operator(root))[1])


def test_densities_are_those_of_their_draws():
    """Mean and covariance of draws, and the density at some points, of the Gaussian families."""
    rng = np.random.default_rng(0)
    mean, log_std, factor = (jnp.asarray(a) for a in (rng.normal(size=3), rng.normal(size=3), rng.normal(size=(3, 2))))
    field = priors.GaussianField((2, 3), priors.PowerLaw(4.0, 0.1, 3.0))
    shown = Posterior(likelihoods.Gaussian(operators.Identity((2, 3)), jnp.zeros((2, 3)), jnp.ones((2, 3))), field)
    of_field = CirculantGaussian().start(TargetDensity(white_coordinates(shown), jnp.zeros(()), jnp.zeros(())), KEY)
    of_field = jax.tree.map(lambda a: a + 0.3 * jnp.arange(a.size).reshape(a.shape), of_field)
    of_field = eqx.tree_at(lambda q: q.mean, of_field, jnp.arange(6.0))
    d = np.diag(np.exp(2 * log_std))
    known = [
        (DiagonalNormal(mean, log_std), d),
        (LowRankNormal(mean, log_std, factor), d + factor @ factor.T),
        (of_field, np.asarray(dense(of_field._covariance))),
    ]
    for q, covariance in known:
        draws = jax.jit(lambda q=q: q.draws(KEY, 20000))()
        np.testing.assert_allclose(draws.c + draws.reflected, np.broadcast_to(2 * q.mean, draws.c.shape), atol=1e-12)
        error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / 20000)
        assert (np.abs(np.cov(draws.c.T) - covariance) < 5 * error).all()
        at = draws.c[:3]
        expected = scipy.stats.multivariate_normal(q.mean, covariance).logpdf(at)
        np.testing.assert_allclose(jax.jit(jax.vmap(q.log_prob))(at), expected, rtol=1e-9)
    assert np.std(np.diag(known[2][1], 1)) > 0.01  # not a multiple of the identity


def test_what_does_not_fit_is_refused(masked):
    post, _ = masked
    sharp = Posterior(post.likelihood, priors.TotalVariation(post.structure.shape, 1.0))
    with pytest.raises(UsageError, match="no family is called 'gauss'; there are auto, metric"):
        fit_variational(post, KEY, "gauss")
    with pytest.raises(CapabilityError, match="MetricGaussian need a prior that is white noise"):
        fit_variational(sharp, KEY, "metric")
    with pytest.raises(UsageError, match="its own coordinates"):
        fit_variational(post, KEY, coordinates=white_coordinates(post))
    with pytest.raises(CapabilityError, match="2 to 400 numbers, this one has 576"):
        fit_variational(one_pixel(shape=(24, 24)), KEY, "flow")
    with pytest.raises(UsageError, match="raise num_samples from 10"):
        fit_variational(post, KEY, num_samples=10)
    with pytest.raises(UsageError, match="num_steps is above zero, not -1"):
        fit_variational(post, KEY, num_steps=-1)
    with pytest.raises(UsageError, match="rank of at least 1"):
        LowRank(0)


def test_it_can_be_watched_and_interrupted():
    post, lines = one_pixel(), []

    def stop(line):
        lines.append(str(line))
        if len(lines) == 2:
            raise KeyboardInterrupt

    found = fit_variational(post, KEY, MeanField(), progress=stop, coordinates=white_coordinates(post))
    assert found.status is Status.INTERRUPTED and len(lines) == 2 and "step" in lines[0]
    assert 0 < found.history[-1]["step"] < 1000 and np.isfinite(found.elbo)


@pytest.mark.parametrize("family", [MeanField(), MetricGaussian()], ids=lambda f: f.name)
def test_an_interrupted_fit_goes_on_with_the_same_numbers(family, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    post, state = one_pixel(), tmp_path / "fit.state"
    settings = {"num_steps": 40 if family.name == "mean field" else 4, "num_samples": 50}
    whole = fit_variational(post, KEY, family, **settings)
    left = [2]

    def stop(line):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    cut = fit_variational(post, KEY, family, progress=stop, checkpoint=state, **settings)
    assert cut.status is Status.INTERRUPTED and 0 < cut.steps < whole.steps and state.is_file()
    with pytest.raises(InputError, match="another problem"):
        fit_variational(post, jax.random.key(1), family, checkpoint=state, **settings)
    again = fit_variational(post, KEY, family, checkpoint=state, **settings)
    assert again.steps == whole.steps and again.elbo == whole.elbo and not state.exists()
    np.testing.assert_array_equal(again.x, whole.x)


def test_a_fit_is_stopped_by_a_rule():
    found = fit_variational(one_pixel(), KEY, "meanfield", num_samples=50, stop=lambda line: line.step >= 8)
    assert found.status is Status.STOPPED and found.steps == 8
