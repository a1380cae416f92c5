"""The maps of what the data say and what the prior does, per pixel and per starlet coefficient."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from astropy.io import fits

from invprob import write_fits
from invprob.config import Config
from invprob.covariance import dense
from invprob.errors import OutputError
from invprob.observation import PSF, Observation
from invprob.operators import Starlet
from invprob.pipeline.batch import deconvolve_many
from invprob.pipeline.deconvolve import deconvolve
from invprob.pipeline.exact import planes, starlet_of
from invprob.priors import HasPrecision
from invprob.testing import dense_posterior
from tests.small import fitted, psf_image

SHAPE = (12, 13)
DRAWS = 2000
CONFIG = Config.make(amplitude=30.0, scale=0.1, slope=3.0, num_samples=DRAWS, sky="fit")


def observation(sigma=1.0) -> Observation:
    """Noise in which a corner is masked, seen through a PSF."""
    data = sigma * np.random.default_rng(0).standard_normal(SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[:5, :5] = True
    return Observation.from_arrays(data, np.full(SHAPE, sigma**2), mask=mask, psf=PSF(psf_image(fwhm=2.0, size=5)))


def exact(obs: Observation) -> dict[str, np.ndarray]:
    """Both maps from the dense covariances of posterior and prior, and the matrix of the transform."""
    with jax.enable_x64(True):
        problem, prior = fitted(obs, CONFIG)
        post = prior.posterior
        n = int(np.prod(problem.frame.shape))
        posterior = np.asarray(dense_posterior(post)[1])[:n, :n]
        prior = np.asarray(dense(post.prior.find(HasPrecision).covariance.parts["image"]))
        starlet = starlet_of(problem.frame.shape)
        pixels = np.eye(n).reshape(n, *problem.frame.shape)
        W = np.asarray(jax.vmap(lambda x: planes(starlet, x))(pixels)).reshape(n, -1).T
    rows, columns = problem.frame.footprint

    def ratio(T, shape):
        variances = [np.einsum("ij,jk,ik->i", T, C, T, optimize=True) for C in (posterior, prior)]
        return (1 - variances[0] / variances[1]).reshape(shape)[..., rows, columns]

    return {
        "contraction": ratio(np.eye(n), problem.frame.shape),
        "contraction_starlet": ratio(W, (starlet.scales + 1, *problem.frame.shape)),
    }


@pytest.fixture(scope="module")
def found():
    return deconvolve(observation(), CONFIG)


@pytest.mark.parametrize("name", ["contraction", "contraction_starlet"])
def test_it_is_that_of_the_dense_posterior(name, found):
    """Within the scatter of the draws; and not that of data with twice the noise."""
    ours, true = getattr(found, name), exact(observation())[name]
    assert ours.shape == true.shape
    ratio = (1 - ours) / (1 - true)
    error = np.sqrt(2 / DRAWS)
    assert abs(ratio.mean() - 1) < error and np.abs(ratio - 1).max() < 5.5 * error
    wrong = (1 - ours) / (1 - exact(observation(sigma=2.0))[name])
    assert abs(wrong.mean() - 1) > 3 * error


def test_the_scales_that_the_psf_has_erased_are_those_of_the_prior(found):
    by_scale = found.contraction_starlet
    assert by_scale.shape == (starlet_of(found.frame.shape).scales + 1, *SHAPE)
    seen = by_scale[:-1, 6:, 6:].mean((1, 2))
    assert seen[0] < 0.2 and np.all(np.diff(seen) > 0.1)  # finest first
    assert by_scale[1, :4, :4].mean() < by_scale[1, 6:, 6:].mean() - 0.1  # under the mask it is the prior


def test_the_transform_is_the_starlet_of_the_latent_grid():
    x = np.random.default_rng(1).standard_normal((40, 44))
    starlet = starlet_of(x.shape)
    assert isinstance(starlet, Starlet) and (starlet.scales, starlet.mode) == (4, "wrap")
    assert starlet_of((600, 700)).scales == 5 and starlet_of((4, 4)).scales == 1
    np.testing.assert_allclose(planes(starlet, x).sum(0), x, atol=1e-12)


def test_other_priors_have_none():
    config = Config.make(prior="tv", max_steps=5)
    found = deconvolve(observation(), config)
    assert found.contraction is None and found.contraction_starlet is None
    assert deconvolve(observation(), CONFIG.model_copy(update={"num_samples": 0})).contraction_starlet is None


def test_a_batch_has_the_same():
    config = CONFIG.model_copy(update={"num_samples": 40})
    (many,) = deconvolve_many([observation()], config)
    alone = deconvolve(observation(), config)
    np.testing.assert_allclose(many.contraction_starlet, alone.contraction_starlet, atol=1e-3)
    np.testing.assert_allclose(many.contraction, alone.contraction, atol=1e-3)


def test_it_is_written(found, tmp_path):
    with fits.open(write_fits(found, tmp_path / "out.fits")) as hdus:
        written = hdus["CONTRACTION_STARLET"]
        np.testing.assert_array_equal(written.data, found.contraction_starlet.astype(np.float32))
        assert [written.header[f"SCALE{i + 1}"] for i in range(len(written.data))] == [1, 2, 4, 8]
        assert "smooth rest" in written.header.comments["SCALE4"]
    for wrong in (found.contraction_starlet[:, 1:], np.full_like(found.contraction_starlet, np.nan)):
        with pytest.raises(OutputError, match="contraction_starlet"):
            write_fits(replace(found, contraction_starlet=wrong), tmp_path / "wrong.fits")
        assert not (tmp_path / "wrong.fits").exists()
