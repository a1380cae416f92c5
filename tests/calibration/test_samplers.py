"""Sparse posteriors are calibrated: truths drawn from the prior itself, draws by the samplers of the package."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import priors
from invprob.calibration import Independent, PureDraw, Thinned, calibrate, prior_draws
from invprob.posterior import Posterior
from invprob.sampling.samplers import HMC, PerturbationOptimization, ScaleMixture
from tests.calibration.worlds import world

STD = 3.0  # of the anchor, many times that of the noise


def sparse_world(name, side=8):
    like = world(side=side).likelihood
    shape = like.operator.in_structure.shape
    made = {
        "tv": lambda: priors.TotalVariation(shape, 1.0),
        "starlet": lambda: priors.StarletSparsity(shape, 0.5, scales=2),
    }[name]()
    return Posterior(like, priors.GaussianRegularized(made, STD))


def test_draws_of_a_prior_are_those_of_its_density():
    """On two pixels, against quadrature."""
    prior = priors.GaussianRegularized(priors.TotalVariation((1, 2), 1.5), 1.0)
    draws = np.asarray(prior_draws(prior, jax.random.key(0), 2000, ScaleMixture(num_warmup=100))).reshape(-1, 2)
    axis = np.linspace(-6, 6, 601)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    weight = np.exp(np.asarray(jax.vmap(prior.log_prob)(jnp.asarray(grid))))
    weight /= weight.sum()
    for value in (lambda x: x[..., 0], lambda x: x[..., 0] ** 2, lambda x: np.abs(x[..., 0] - x[..., 1])):
        expected = weight @ value(grid[:, 0])
        found = value(draws)
        assert abs(found.mean() - expected) < 5 * found.std() / np.sqrt(len(found))


def test_exact_draws_are_calibrated():
    found = calibrate(world(side=8), PureDraw(Independent(PerturbationOptimization())), jax.random.key(0), num_cases=60)
    assert found.passed, found.caught_by


def experiment(name, sampler, number, key=0, analysed=None, thin=4):
    post = sparse_world(name)
    truths = prior_draws(post.prior, jax.random.key(key + 100), number)
    draw = PureDraw(Thinned(sampler, thin=thin))
    return calibrate(post, draw, jax.random.key(key), truths=truths, analysed=analysed, num_cases=number, num_draws=49)


@pytest.mark.parametrize("name", ["tv", pytest.param("starlet", marks=pytest.mark.slow)])
def test_gibbs_draws_are_calibrated(name):
    found = experiment(name, ScaleMixture(num_warmup=30), 50)
    assert found.passed, found.caught_by


def test_a_wrong_strength_is_noticed():
    post = sparse_world("tv")
    wrong = eqx.tree_at(lambda p: p.prior.prior.norm.scale, post, replace_fn=lambda b: 2.0 * b)
    assert not experiment("tv", ScaleMixture(num_warmup=30), 30, analysed=wrong).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tv", "starlet"])
@pytest.mark.parametrize("sampler", [ScaleMixture(num_warmup=30), HMC(num_warmup=150)], ids=lambda s: s.name)
def test_five_hundred_cases(name, sampler):
    """68 % intervals of the pixels cover 66 to 70 %, and no test fails."""
    found = experiment(name, sampler, 500, thin=8 if isinstance(sampler, HMC) else 4)
    assert found.passed, found.caught_by
    assert 0.66 < found.coverage("pixels", 0.68).value < 0.70
