"""Priors known by their denoiser: untrained, every path gives the posterior of the Gaussian prior."""

import jax
import numpy as np
import pytest

from invprob.covariance import dense_operator
from invprob.errors import CapabilityError, UsageError
from invprob.infer.auxiliary import auxiliary
from invprob.infer.sample import as_sampler, sample
from invprob.infer.samplers import Split

from .problems import learned_problem


def test_the_auxiliary_image():
    """C is below the inverse of H, and the scatter of u has the covariance C - C H C."""
    post, _ = learned_problem(side=5)
    found = auxiliary(post, 0.95, 1e-3)
    C = np.asarray(dense_operator(found.covariance.operator))
    A = np.asarray(dense_operator(post.likelihood.operator))
    H = A.T @ np.asarray(dense_operator(post.likelihood.noise.inv)) @ A
    root = np.asarray(dense_operator(found.covariance.sqrt))
    largest = np.linalg.eigvalsh(root @ H @ root).max()
    assert 0.9 < largest < 0.96
    number = 5000
    u = np.asarray(jax.vmap(found.scatter)(jax.random.split(jax.random.key(0), number))).reshape(number, -1)
    eye = np.eye(u.shape[1])

    def off(covariance):
        z = np.linalg.solve(np.linalg.cholesky(covariance), u.T)
        return np.abs((z @ z.T / number - eye) * np.sqrt(number / (1 + eye))).max()

    assert off(C - C @ H @ C) < 6
    assert off(C) > 10


def test_it_is_chosen_and_labelled():
    post, _ = learned_problem(side=5)
    sampler, reason = as_sampler("auto", post)
    assert isinstance(sampler, Split) and "denoiser" in reason


def test_refusals():
    _, gaussian = learned_problem(side=5)
    with pytest.raises(CapabilityError, match="denoiser for coloured noise, not Gaussian"):
        sample(gaussian, jax.random.key(0), 100, Split())
    with pytest.raises(UsageError, match="share between 0 and 1"):
        Split(share=1.5)
