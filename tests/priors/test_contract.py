"""Every prior keeps the contract of priors, and the contract notices those that do not."""

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from invprob import priors
from invprob.operators import Structure
from invprob.testing import check_prior, no_retrace
from tests.cases import PRIORS


@pytest.mark.parametrize("name", PRIORS)
def test_contract(name):
    make = PRIORS[name][1]
    check_prior(make())
    structure = make().structure
    zero = structure.treedef.unflatten([jnp.zeros(shape) for shape, _ in structure.leaves])
    no_retrace(make, lambda prior: known(prior, zero))


def known(prior, x):
    """What a prior says of x: its density, its score, what it takes for noise, or one of its draws."""
    if isinstance(prior, priors.HasLogProb):
        return prior.log_prob(x)
    if isinstance(prior, priors.HasScore):
        return prior.score(x)
    return prior.denoise(x, 0.3) if isinstance(prior, priors.HasDenoiser) else prior.sample(jax.random.key(0))


class Cauchy(priors.HasLogProb):
    """A third party's prior."""

    gamma: Array
    constant: float = 1.0
    normalized = True

    @property
    def structure(self):
        return Structure((1,))

    def log_prob(self, x):
        norm = self.constant * jnp.pi * self.gamma
        return -jnp.sum(jnp.log1p((x / self.gamma) ** 2) + jnp.log(norm))


class WrongScore(Cauchy):
    def score(self, x):
        return 1.01 * super().score(x)


class WrongProx(Cauchy, priors.HasProx):
    def prox(self, v, step):
        return v / (1 + step)


def test_a_third_party_prior():
    check_prior(Cauchy(jnp.asarray(0.7)), shape=(1,))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (Cauchy(jnp.asarray(0.7), 1.1), "normalization"),
        (WrongScore(jnp.asarray(0.7)), "score"),
        (WrongProx(jnp.asarray(0.7)), "prox"),
    ],
)
def test_contract_notices(prior, message):
    with pytest.raises(AssertionError, match=message):
        check_prior(prior)
