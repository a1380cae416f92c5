"""What the header says of the residuals, of every prior and in a batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from invprob.covariance import dense, dense_operator
from invprob.pipeline.batch import deconvolve_many
from invprob.pipeline.deconvolve import deconvolve
from invprob.pipeline.draws import fit_trace
from invprob.pipeline.fit import with_fit
from invprob.results.report import Report
from invprob.sampling.sample import sample
from invprob.sampling.samplers import PerturbationOptimization
from invprob.testing import small_problem
from tests.small import observation, settings

RECORDS = (
    "fit_p_value", "fit_p_chi2", "fit_p_matched", "fit_p_peak", "peak_residual", "peak_residual_x", "peak_residual_y",
)  # fmt: skip


def test_the_fit_of_one_and_of_many():
    obs = observation()
    struck = replace(obs, data=obs.data + 60.0 * (np.indices(obs.shape) == np.array([[[3]], [[15]]])).all(0))
    many = deconvolve_many([obs, struck], settings())
    for one, of_many in zip((deconvolve(o, settings()) for o in (obs, struck)), many, strict=True):
        for name in RECORDS:
            assert of_many.report.get(name) == pytest.approx(one.report.get(name), rel=0.01), name
    assert many[0].report.fit_p_value > 0.05
    assert many[1].report.fit_p_value < 0.01
    assert (many[1].report.peak_residual_x, many[1].report.peak_residual_y) == (16, 4)


def test_chi_square_has_the_degrees_of_freedom_that_are_known():
    plain, drawn = deconvolve(observation(), settings()), deconvolve(observation(), settings(num_samples=20))
    assert plain.report.fit_p_chi2 == pytest.approx(stats.chi2.sf(plain.chi2, plain.num_data), rel=1e-3)
    assert drawn.effective_dof is not None and drawn.effective_dof < drawn.num_data - 5
    assert drawn.report.fit_p_chi2 == pytest.approx(stats.chi2.sf(drawn.chi2, drawn.effective_dof), rel=1e-3)


def test_the_trace_of_the_fit_is_that_of_draws():
    """By its definition, the trace of A S A.T N^-1, with S the posterior covariance."""
    post = small_problem()
    like = post.likelihood
    a = np.asarray(dense_operator(like.operator)).reshape(like.data.size, -1)
    weight = np.where(like.valid, 1 / like.noise.variance, 0.0).ravel()
    precision = np.linalg.inv(np.asarray(dense(post.prior.covariance))) + a.T @ (weight[:, None] * a)
    exact = np.trace(a @ np.linalg.inv(precision) @ a.T * weight)
    found = sample(post, jax.random.key(0), 2000, PerturbationOptimization())
    draws = jax.tree.map(lambda x: jnp.asarray(x[0]), found.latents)
    spread = np.sqrt(2 * exact / 2000)  # at most: each mode adds a chi-square of one degree of freedom
    assert float(fit_trace(post, jnp.asarray(found.x), draws)) == pytest.approx(exact, abs=4 * spread)


def test_without_a_number_there_is_nothing_to_judge():
    found = deconvolve(observation(), settings())
    assert found.residual is not None
    plain = replace(found, residual=np.full_like(found.residual, np.nan), report=Report())
    assert with_fit(plain, observation()) is plain


def test_chains_have_degrees_of_freedom():
    config = settings(
        prior="tv", strength=1.0, amplitude=None, scale=None, slope=None, method="sample", num_samples=400
    )
    found = deconvolve(observation(), config)
    assert found.effective_dof == pytest.approx(found.num_data - found.report.fit_trace)
    assert 0.8 < found.chi2 / found.effective_dof < 1.2 and found.effective_dof < found.num_data - 5
