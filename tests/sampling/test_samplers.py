"""Every sampler keeps the contract of samplers, and the contract notices what it is there for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from invprob.posterior import Hierarchy
from invprob.posterior.hierarchies import StrengthModel
from invprob.sampling.sample import sample
from invprob.sampling.samplers import HMC, PerturbationOptimization, ScaleMixture
from invprob.testing import check_sampler, small_problem
from invprob.testing.samplers import off_by
from tests.cases import SAMPLERS
from tests.problems import learned_problem, masked_problem, periodic_problem, psf


def whatever_theta():
    post, zero = masked_problem(side=6, amplitude=4.0, kernel=psf(2.5, 3)), jnp.zeros(())
    return Hierarchy(lambda theta: post, zero, zero - 1, zero + 1)


def any_strength():
    """The strength of nothing."""
    start = {"log_strength": jnp.zeros(())}
    return Hierarchy(StrengthModel(small_problem(side=6)), start, {"log_strength": -1.0}, {"log_strength": 1.0})


PROBLEMS = {
    "conditioned": lambda: masked_problem(side=8, amplitude=20.0, kernel=psf(5.0, 11)),
    "filtered": lambda: periodic_problem(shape=(6, 7)),
    "messenger": whatever_theta,
    "strength": any_strength,
}
LENGTH = {"nuts": 1500}


LEARNED = "split"


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != LEARNED])
def test_contract(name):
    post = PROBLEMS[name]() if name in PROBLEMS else None
    check_sampler(SAMPLERS[name][1](), post, num_samples=LENGTH.get(name, 3000))


def test_contract_of_a_learned_prior():
    post, gaussian = learned_problem(side=4)
    check_sampler(SAMPLERS[LEARNED][1](), post, num_samples=4000, reference=gaussian)


@pytest.mark.parametrize("sampler", [PerturbationOptimization(), ScaleMixture(), HMC()], ids=lambda s: s.name)
def test_contract_notices_a_wrong_noise_level(sampler):
    """Draws of a posterior whose noise variance is wrong by 1.3 are told from those of the right one."""
    post = small_problem(side=6)
    louder = eqx.tree_at(lambda p: p.likelihood.noise.variance, post, replace_fn=lambda v: 1.3 * v)
    found = off_by(post, sample(louder, jax.random.key(0), 6000, sampler))
    assert found["energy"] > 10, found
    assert off_by(louder, sample(louder, jax.random.key(0), 6000, sampler))["energy"] < 5
