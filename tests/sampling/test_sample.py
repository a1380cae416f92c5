"""`sample`: against independent references, resumed, refused, and honest about chains that have not mixed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import likelihoods, operators, priors
from invprob.covariance import Diagonal
from invprob.diagnostics.rank_statistics import mean_ess
from invprob.errors import CapabilityError, UsageError
from invprob.loop import after
from invprob.posterior import Posterior
from invprob.results import Status
from invprob.sampling import chains as chains_module
from invprob.sampling.sample import as_sampler, check_score, sample
from invprob.sampling.samplers import HMC, NUTS, ScaleMixture
from invprob.testing import dense_posterior, small_problem
from tests.optimize.sparse import cases
from tests.problems import masked_problem
from tests.sampling.dense_gibbs import dense_gibbs

SPARSE = {
    "tv": lambda shape: priors.TotalVariation(shape, 2.0),
    "tv along the axes": lambda shape: priors.TotalVariation(shape, 2.0, isotropic=False),
    "starlet": lambda shape: priors.StarletSparsity(shape, 2.0, scales=2),
    "laplace": lambda shape: priors.Laplace(0.5, shape),
}


def sparse_post(name, side=3, masked=0.2):
    base = masked_problem(side=side, masked=masked)
    return Posterior(base.likelihood, SPARSE[name](base.structure.shape))


def pulls(draws, reference):
    """Differences of mean and of mean square, in Monte-Carlo standard errors; draws ``(chain, draw, unknown)``."""
    scale = reference.std(0)
    centre = reference.mean(0)
    out = []
    for power in (1, 2):
        a, b = ((d - centre) / scale for d in (draws, reference[None]))
        a, b = a**power, b**power
        error = np.sqrt(a.var((0, 1)) / mean_ess(a) + b.var((0, 1)) / mean_ess(b))
        out.append(np.abs((a.mean((0, 1)) - b.mean((0, 1))) / error))
    return np.array(out)


def flat(result):
    first = jax.tree.leaves(result.latents)[0]
    return np.asarray(first, float).reshape(*first.shape[:2], -1)


@pytest.mark.parametrize("name", cases(SPARSE, "tv"))
def test_sparse_posteriors_against_a_dense_sampler(name):
    post = sparse_post(name)
    reference = dense_gibbs(post, 4000)
    for method, number in (("gibbs", 2000), ("hmc", 4000)):
        found = pulls(flat(sample(post, jax.random.key(1), number, method)), reference)
        assert found.max() < 5, (method, found.max())
    rescaled = eqx.tree_at(lambda p: p.prior.norm.scale if name != "laplace" else p.prior.scale, post, 1 / 3.0)
    wrong = pulls(flat(sample(rescaled, jax.random.key(1), 2000, "gibbs")), reference)
    assert wrong.max() > 10, "the check does not notice a strength that is wrong"


@pytest.mark.slow
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_posteriors_against_a_million_draws(name):
    """Mean and mean square of each unknown within their Monte-Carlo errors, standard deviations within one per cent on
    the average; that of a single one has an error of a third to one per cent of chance."""
    post = sparse_post(name, side=2, masked=0.0)
    reference = dense_gibbs(post, 500_000)
    for method in ("gibbs", "hmc"):
        result = sample(post, jax.random.key(1), 200_000, method)
        assert pulls(flat(result), reference).max() < 5
        ratio = np.ravel(result.std) / reference.std(0)
        assert abs(ratio.mean() - 1) < 0.01 and np.abs(ratio - 1).max() < 0.04


def by_quadrature(post, axis):
    """Mean and standard deviation of two numbers under a density on a grid."""
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    shape = post.structure.shape
    log = np.asarray(jax.lax.map(lambda x: post.log_prob(x.reshape(shape)), jnp.asarray(grid), batch_size=4096))
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = weight @ grid
    return mean, np.sqrt(weight @ (grid - mean) ** 2)


def two_pixels(prior, data, std=0.7, function=None):
    mixing = jnp.asarray([[1.0, 0.6], [0.4, 1.0]])
    linear = operators.Function(lambda x: mixing @ jnp.ravel(x), prior.structure).linearize(jnp.zeros((1, 2)))
    operator = linear if function is None else operators.Function(function, (2,)) @ linear
    return Posterior(likelihoods.Gaussian(operator, jnp.asarray(data), std**2), prior)


CURVED = {
    "positive, sparse": (
        lambda: two_pixels(priors.Positive(priors.Laplace(1.5, (1, 2))), [0.8, -0.3]), np.linspace(0, 8, 801)),
    "positive above a floor": (
        lambda: two_pixels(priors.Positive(priors.Laplace(1.5, (1, 2)), -0.5), [0.8, -0.3]), np.linspace(-0.5, 8, 801)),
    "exponential": (
        lambda: two_pixels(priors.Exponential(1.0, (1, 2)), [0.8, 2.0]), np.linspace(0, 10, 801)),
    "log-normal": (
        lambda: two_pixels(
            priors.LogNormal(priors.GaussianField((1, 2), priors.PowerLaw(1.0, 0.3, 2.0))), [0.8, 2.0], 0.3
        ),
        np.linspace(1e-4, 8, 801),
    ),
    "non-linear": (
        lambda: two_pixels(priors.GaussianField((1, 2), priors.PowerLaw(1.0, 0.3, 2.0)), [0.5, 0.9], 0.3, jnp.tanh),
        np.linspace(-6, 6, 601),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", cases(CURVED, "positive above a floor", "log-normal"))
@pytest.mark.parametrize("method", cases(["hmc", "nuts"], "hmc"))
def test_bounds_and_curved_posteriors_against_quadrature(name, method):
    make, axis = CURVED[name]
    post = make()
    mean, std = by_quadrature(post, axis)
    result = sample(post, jax.random.key(2), 8000 if method == "hmc" else 3000, method)
    draws = flat(result)
    error = draws.std((0, 1)) / np.sqrt(mean_ess(draws))
    assert np.all(np.abs(draws.mean((0, 1)) - mean) < 5 * error), (draws.mean((0, 1)), mean, error)
    squares = (draws - mean) ** 2
    spread = squares.std((0, 1)) / np.sqrt(mean_ess(squares))
    assert np.all(np.abs(squares.mean((0, 1)) - std**2) < 5 * spread), (squares.mean((0, 1)), std**2, spread)


def test_an_image_and_a_sky_level():
    post = masked_problem(side=4, sky=True)
    mean, covariance = dense_posterior(post)
    for method in ("exact", "hmc", "gibbs"):
        result = sample(post, jax.random.key(0), 2000, method)
        sky = np.asarray(result.latents["sky"], float)[..., None]
        sd = np.sqrt(covariance[-1, -1])
        error = sd / np.sqrt(mean_ess(sky)[0])
        assert abs(sky.mean() - float(mean["sky"])) < 5 * error
        assert abs(float(result.latent_std["sky"]) / sd - 1) < 0.1
        assert result.image is None and result.draws is None


def test_the_choice_is_by_structure():
    shape = (5, 5)
    like = likelihoods.Gaussian(operators.Identity(shape), jnp.ones(shape), 1.0)
    uneven = likelihoods.Gaussian(operators.Identity(shape), jnp.ones(shape), Diagonal(1.0 + jnp.eye(5)))
    saturated = likelihoods.Gaussian(operators.Function(jnp.tanh, shape), jnp.ones(shape), 1.0)
    field = priors.GaussianField(shape, priors.PowerLaw(1.0, 0.1, 3.0))
    tv = priors.TotalVariation(shape, 1.0)
    for likelihood, prior, name in (
        (like, field, "filtered noise"), (uneven, field, "perturb and solve"), (like, tv, "gibbs"),
        (like, priors.Positive(tv), "hmc"), (like, priors.LogNormal(field), "hmc"), (saturated, field, "hmc"),
    ):  # fmt: skip
        sampler, reason = as_sampler("auto", Posterior(likelihood, prior))
        assert sampler.name == name and reason


class Stop:
    """Raises Ctrl-C at the n-th line of progress."""

    def __init__(self, number):
        self.left = number

    def __call__(self, progress):
        assert str(progress)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("sampler", [HMC(num_warmup=30), ScaleMixture(num_warmup=5)], ids=lambda s: s.name)
@pytest.mark.parametrize("lines", [1, 4])
def test_an_interrupted_run_goes_on_with_the_same_numbers(sampler, lines, tmp_path):
    post, key, state = sparse_post("tv"), jax.random.key(3), tmp_path / "chains.state"
    whole = sample(post, key, 200, sampler)
    cut = sample(post, key, 200, sampler, progress=Stop(lines), checkpoint=state)
    assert cut.status is Status.INTERRUPTED and state.is_file()
    resumed = sample(post, key, 200, sampler, checkpoint=state)
    np.testing.assert_array_equal(resumed.latents, whole.latents)
    np.testing.assert_array_equal(resumed.std, whole.std)
    assert not state.exists()


@pytest.mark.parametrize("num_warmup", [2, 10**6])
def test_chains_are_stopped_by_a_rule(num_warmup):
    """What was drawn is judged; nothing was where the warm-up had not ended."""
    found = sample(sparse_post("tv"), jax.random.key(0), 400, ScaleMixture(num_warmup=num_warmup), stop=after(0.0))
    assert found.status is Status.NOT_MIXED and 0 <= found.steps < 400
    assert found.latents.shape[:2] == (4, found.steps // 4) and "too few draws" in found.failures[0]


def test_a_state_of_another_run_is_refused(tmp_path):
    post, state = sparse_post("tv"), tmp_path / "chains.state"
    sample(post, jax.random.key(3), 200, "gibbs", progress=Stop(1), checkpoint=state)
    with pytest.raises(ValueError, match="another problem"):
        sample(post, jax.random.key(4), 200, "gibbs", checkpoint=state)


def test_chains_that_have_not_mixed_are_not_called_good():
    post = sparse_post("tv")
    short = sample(post, jax.random.key(0), 40, HMC(num_warmup=2))
    assert short.status is Status.NOT_MIXED and not short.status.ok
    assert any("ESS" in line for line in short.failures)
    assert all(short.stats[name].shape == (4, 10) for name in ("energy", "acceptance_rate", "diverging"))
    np.testing.assert_allclose(short.stats["acceptance_rate"].mean(1), short.quality.acceptance)
    assert short.stats["diverging"].sum() == short.quality.divergent
    long = sample(post, jax.random.key(0), 8000, "gibbs")
    assert long.status is Status.CONVERGED and long.failures == () and long.quality is not None


def test_a_posterior_that_is_not_finite_says_so():
    post = sparse_post("tv")
    broken = eqx.tree_at(lambda p: p.likelihood.data, post, replace_fn=lambda y: y.at[1, 1].set(jnp.nan))
    for method in ("hmc", "gibbs"):
        assert sample(broken, jax.random.key(0), 40, method).status is Status.NOT_FINITE


def test_draws_beyond_memory_are_thinned_but_all_count(monkeypatch):
    post, key = sparse_post("tv"), jax.random.key(0)
    whole = sample(post, key, 400, "gibbs")
    monkeypatch.setattr(chains_module, "KEPT_BYTES", -(-whole.latents.nbytes // 3))
    thin = sample(post, key, 400, "gibbs")
    np.testing.assert_array_equal(thin.latents, whole.latents[:, 2::3])
    assert (whole.every, thin.every, whole.num_chains) == (1, 3, 4)
    assert set(thin.stats) == {"acceptance_rate", "diverging"}
    assert all(values.shape == (4, 33) for values in thin.stats.values())
    np.testing.assert_allclose(thin.std, whole.std, rtol=1e-6)
    np.testing.assert_allclose(whole.std, np.asarray(whole.draws, float).std(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(whole.image, np.asarray(whole.draws, float).mean(0), rtol=1e-5, atol=1e-6)


def test_the_view_is_what_is_kept():
    post = sparse_post("tv")
    whole = sample(post, jax.random.key(0), 40, "gibbs")
    corner = sample(post, jax.random.key(0), 40, "gibbs", view=lambda x: x[:2, :2])
    np.testing.assert_allclose(corner.latents, whole.latents[..., :2, :2], rtol=1e-5, atol=1e-6)
    assert corner.draws.shape == (40, 2, 2)


def test_what_cannot_be_sampled_says_so():
    post = sparse_post("tv")
    with pytest.raises(UsageError, match="no sampler is called 'metropolis'; there are auto, exact"):
        sample(post, jax.random.key(0), 10, "metropolis")
    with pytest.raises(UsageError, match="fewer than 4 cannot be judged"):
        sample(post, jax.random.key(0), 10, "hmc")
    with pytest.raises(UsageError, match="at least 1"):
        sample(post, jax.random.key(0), 0)
    with pytest.raises(CapabilityError, match="exact draws need"):
        sample(post, jax.random.key(0), 10, "exact")
    positive = Posterior(post.likelihood, priors.Positive(post.prior))
    with pytest.raises(CapabilityError, match="use hmc"):
        sample(positive, jax.random.key(0), 100, "gibbs")
    with pytest.raises(UsageError, match="target_accept between 0 and 1"):
        NUTS(target_accept=1.5)


def test_a_fake_density_is_refused():
    """A prior whose score is not the gradient of its log-density, as published learned priors have it."""

    class Fake(priors.Gaussian):
        def score(self, x):
            return -1.5 * x

    class Honest(priors.Gaussian):
        def score(self, x):
            return -x

    like = small_problem(side=4).likelihood
    for kind in (Fake, Honest):
        prior = kind(jnp.zeros((6, 6)), Diagonal(jnp.ones((6, 6))))
        if kind is Honest:
            check_score(prior, jnp.zeros(()).dtype)
            continue
        with pytest.raises(CapabilityError, match="score of the Fake prior is not the gradient of its log_prob"):
            sample(Posterior(like, prior), jax.random.key(0), 100, HMC())
