"""`deconvolve` by variational and Laplace approximations: exact where the posterior is Gaussian, judged elsewhere."""

import jax
import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from invprob.cli import app
from invprob.config import Config
from invprob.errors import UsageError
from invprob.observation import PSF, Observation
from invprob.pipeline.batch import deconvolve_many
from invprob.pipeline.calibrate import calibrate_configuration
from invprob.pipeline.deconvolve import deconvolve
from invprob.pipeline.run import replay, run
from invprob.results import Samples, Status
from invprob.testing import dense_posterior
from invprob.variational.base import Variational
from tests.small import fitted, psf_image, settings, write_image

SHAPE = (10, 11)
LEVEL = 3.0
DRAWS = 1000


def observation(level=0.0):
    """A source on a level, seen through a PSF; the noise has a standard deviation of a half."""
    y, x = np.indices(SHAPE)
    data = 30 * np.exp(-0.5 * ((y - 5) ** 2 + (x - 4) ** 2) / 2.0) + level
    data += 0.5 * np.random.default_rng(0).standard_normal(SHAPE)
    return Observation.from_arrays(data, np.full(SHAPE, 0.25), psf=PSF(psf_image(fwhm=2.0, size=5)))


@pytest.fixture(scope="module")
def dense():
    """The report of the strength, and the dense mean and covariance of the footprint and the sky."""
    config = Config.make(sky="fit")
    with jax.enable_x64(True):
        problem, prior = fitted(observation(LEVEL), config)
        mean, covariance = dense_posterior(prior.posterior)
    inside = np.zeros(problem.frame.shape, bool)
    inside[problem.frame.footprint] = True
    seen = np.append(inside.ravel(), True)
    flat = np.append(np.ravel(mean["image"]), mean["sky"])
    return prior.report, flat[seen], np.asarray(covariance)[np.ix_(seen, seen)]


@pytest.mark.parametrize("method", ["laplace", "vi"])
def test_of_a_gaussian_posterior_it_is_exact(method, dense):
    """Image, sky, their errors, and the evidence, by which the strength was found as well."""
    fitted_report, mean, covariance = dense
    found = deconvolve(observation(LEVEL), Config.make(method=method, sky="fit"))
    said = found.report
    assert isinstance(found, Samples) and found.status is Status.CONVERGED and found.bias == ""
    assert found.draws.shape == (DRAWS, *SHAPE) and "bias" not in said
    np.testing.assert_allclose(np.append(found.image, said.sky), mean, atol=1e-5 * np.abs(mean).max())
    error = 1 / np.sqrt(2 * DRAWS)
    ratio = np.append(found.std, said.sky_std) / np.sqrt(np.diag(covariance))
    assert abs(ratio.mean() - 1) < 2 * error and np.abs(ratio - 1).max() < 5 * error
    assert said.flux_std == pytest.approx(np.sqrt(covariance[:-1, :-1].sum()), rel=4 * error)
    bound = said.laplace_log_evidence if method == "laplace" else said.elbo
    assert bound == pytest.approx(fitted_report.log_evidence, abs=1e-3)
    assert said.get("laplace_log_evidence_error" if method == "laplace" else "elbo_error") < 1e-3
    assert said.khat < said.khat_threshold and said.convergence_check == "passed"
    assert 0 < np.median(found.contraction) < 1


def test_by_the_command(tmp_path, monkeypatch):
    """An approximation that does not fit is written, the reason is said, and the run can be repeated."""
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "image.fits", observation().data)
    options = ["--prior", "tv", "--method", "vi", "--max-steps", "60", "--num-samples", "200", "--intervals", "68"]
    result = CliRunner().invoke(app, ["deconvolve", "image.fits", *options, "-o", "out.fits"])
    assert result.exit_code == 70, result.output
    assert "not reliable: k-hat" in result.stderr and "k-hat of the draws" in result.stderr
    assert "out.fits is written, but: the approximation does not fit" in result.stderr
    with fits.open("out.fits", checksum=True) as hdus:
        header, names = hdus[0].header, {hdu.name for hdu in hdus}
        assert "NOERR" not in header and "CONTRACTION" not in names
        assert header["STATUS"] == "NOT_RELIABLE" and header["KHAT"] > header["KHATMAX"]
        assert (header["APPROX"], header["SOLVER"], header["STEPS"]) == ("vi: circulant", "circulant", 60)
        assert "not of the posterior" in header["BIAS"] and "k-hat" in header["CONVCHK"]
        assert header["ELBOERR"] > 0 and (header["SEED"], header["NDRAWS"]) == (0, 200)
        image, std, draws, low, high = (hdus[name].data for name in ("SCI", "ERR", "DRAWS", "LOW68", "HIGH68"))
        np.testing.assert_allclose(std, draws.std(0, ddof=1), rtol=1e-5)
        # the mean is that of the draws and of their reflections about the centre
        pull = (draws.mean(0) - image) / std * np.sqrt(200)
        assert 0.7 < pull.std() < 1.3
        assert header["FLUXERR"] == pytest.approx(draws.sum((1, 2), dtype=float).std(ddof=1), rel=1e-5)
        assert ((draws > low) & (draws < high)).mean() == pytest.approx(0.68, abs=0.01)
    assert replay("out.fits").identical


def test_interrupted_nothing_is_left(tmp_path, monkeypatch):
    stopped = Variational(None, Status.INTERRUPTED, "", "", 3, 0.0, 1)
    monkeypatch.setattr("invprob.pipeline.approximate.fit_variational", lambda *_, **__: stopped)
    config = settings(prior="tv", method="vi", num_samples=50, input={"image": str(write_image(tmp_path / "a.fits"))})
    with pytest.raises(KeyboardInterrupt) as caught:
        run(config, tmp_path / "out.fits")
    assert type(caught.value) is KeyboardInterrupt  # no state is said to be kept
    assert {path.name for path in tmp_path.iterdir()} == {"a.fits"}


def test_where_there_is_none(monkeypatch):
    with pytest.raises(UsageError, match="approximations are made for one image at a time"):
        deconvolve_many([observation()], settings(method="vi", num_samples=50))
    with pytest.raises(UsageError, match="calibration tests the draws of samplers"):
        calibrate_configuration(settings(method="laplace", num_samples=50))
    monkeypatch.setattr("invprob.pipeline.approximate.METRIC_LIMIT", 100)
    for method in ("vi", "laplace"):
        with pytest.raises(UsageError, match=r"for up to 100 latent pixels.*--method sample"):
            deconvolve(observation(), Config.make(prior="lognormal", method=method))
