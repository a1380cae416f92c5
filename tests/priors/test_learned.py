"""The learned prior: with a network that has seen nothing it is the Gaussian prior, in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob.operators.fourier import frequencies, half_shape
from invprob.priors.denoiser import SHARES, Denoiser, Estimate, Spectrum, mean_over_modes, untrained
from invprob.priors.learned import DenoiserPrior, Training
from invprob.priors.weights_file import learned_prior, shipped_weights

SHAPE = (12, 15)
SMALL = {"channels": (4, 6), "blocks": 1, "embedding": 8}


def spectrum():
    """A broken power law in a table."""
    k = jnp.geomspace(0.005, 0.75, 60, dtype=jnp.float32)
    return Spectrum(k, jnp.log(5 * (1 + (k / 0.1) ** 2) ** -1.5))


def blank(shape=SHAPE, mean=0.3, **training):
    """A prior whose network has seen nothing."""
    return DenoiserPrior(untrained(jax.random.key(0), spectrum(), mean, **SMALL), shape, Training(**training))


def stirred(shape=SHAPE, size=0.3):
    """A prior whose network does something: its last layer is not zero."""
    prior = blank(shape)
    noise = size * jax.random.normal(jax.random.key(1), prior.denoiser.network.out.weight.shape, jnp.float32)
    return eqx.tree_at(lambda p: p.denoiser.network.out.weight, prior, noise)


def coloured(shape=SHAPE):
    """Noise that rises where a PSF leaves nothing."""
    k = frequencies(shape)
    return jnp.asarray(0.2 / (np.exp(-((k / 0.15) ** 2)) + 1e-2))


NOISES = {"white": lambda: jnp.full(half_shape(SHAPE), 0.5**2), "coloured": coloured}


def wiener(prior, x, noise):
    """The Wiener filter, by hand."""
    power = np.exp(np.interp(np.log(frequencies(SHAPE) + 1e-9), np.log(spectrum().frequency), spectrum().log_power))
    modes = np.fft.rfft2(np.asarray(x) - 0.3)
    return 0.3 + np.fft.irfft2(power / (power + np.asarray(noise)) * modes, s=SHAPE)


@pytest.mark.parametrize("noise", NOISES)
def test_untrained_it_is_the_wiener_filter(noise):
    prior, x, power = blank(), jax.random.normal(jax.random.key(2), SHAPE), NOISES[noise]()
    np.testing.assert_allclose(prior.denoise_coloured(x, power), wiener(prior, x, power), atol=1e-6)
    assert np.abs(stirred().denoise_coloured(x, power) - wiener(prior, x, power)).max() > 1e-2


def test_white_noise_is_a_level():
    x = jax.random.normal(jax.random.key(2), SHAPE)
    np.testing.assert_allclose(stirred().denoise(x, 0.5), stirred().denoise_coloured(x, NOISES["white"]()), atol=1e-6)


def test_a_key_is_a_view():
    """Of a square image, here of a size that the network has to extend; untrained, all views are the Wiener filter."""
    shape = (10, 10)
    x, noise = jax.random.normal(jax.random.key(2), shape), coloured(shape)
    keys = jax.random.split(jax.random.key(3), 20)
    filtered = blank(shape).denoiser.wiener(x, noise)
    for key in keys[:3]:
        np.testing.assert_allclose(blank(shape).denoise_coloured(x, noise, key), filtered, atol=1e-6)
    prior = stirred(shape)
    seen = np.asarray(jax.vmap(lambda key: prior.denoise_coloured(x, noise, key))(keys))
    plain = np.asarray(prior.denoise_coloured(x, noise))
    assert np.isfinite(seen).all()
    assert np.abs(seen - plain).max() > 1e-2

    # the mean over all views is the same for an image on its side, which one view is not
    def over_all(x):
        many = jax.random.split(jax.random.key(4), 4000)
        return np.asarray(jax.lax.map(lambda key: prior.denoise_coloured(x, noise, key), many, batch_size=200))

    upright, aside = over_all(x), np.swapaxes(over_all(x.T), 1, 2)
    pull = np.abs(upright.mean(0) - aside.mean(0)) / (np.hypot(upright.std(0), aside.std(0)) / np.sqrt(4000))
    assert pull.max() < 5
    one_way = np.abs(plain - np.asarray(prior.denoise_coloured(x.T, noise)).T)
    assert one_way.max() > 10 * np.abs(upright.mean(0) - aside.mean(0)).max()


@pytest.mark.parametrize("shape", [(8, 8), (9, 14), (24, 17)])
def test_any_size_of_image(shape):
    prior = stirred(shape)
    x = jax.random.normal(jax.random.key(2), shape)
    out = prior.denoise(x, 0.5)
    assert out.shape == shape and bool(jnp.isfinite(out).all())


def test_the_network_moves_with_the_image():
    """A periodic shift by what the coarsest grid takes as one, and a larger image of copies."""
    prior, big = stirred((32, 32)), stirred((64, 64))
    x = jax.random.normal(jax.random.key(2), (32, 32))
    out = prior.denoise(x, 0.5)
    moved = prior.denoise(jnp.roll(x, (4, 8), (0, 1)), 0.5)
    np.testing.assert_allclose(moved, jnp.roll(out, (4, 8), (0, 1)), atol=1e-5)
    tiled = big.denoise(jnp.tile(x, (2, 2)), 0.5)
    # c_out is a mean over the modes of the grid, which are not the same
    np.testing.assert_allclose(tiled, jnp.tile(out, (2, 2)), atol=2e-3 * float(jnp.std(out)))


def test_the_flux_is_seen():
    """Nothing is normalized by the image: twice the image is not twice the estimate."""
    prior, x = stirred(), jax.random.normal(jax.random.key(2), SHAPE)
    one, two = (prior.denoise(0.3 + f * x, 0.5) - 0.3 for f in (1, 2))
    assert np.abs(two - 2 * one).max() > 1e-2


@pytest.mark.parametrize("noise", NOISES)
def test_the_reverse_diffusion_is_exact_for_a_gaussian(noise):
    """Mean and power of draws given a noisy image, in as few as four steps."""
    prior, C = blank(), NOISES[noise]()
    x = jnp.asarray(prior.sample(jax.random.key(3)), jnp.float64)
    number = 1500
    draw = jax.jit(jax.vmap(lambda key: prior.denoised_draw(key, x, C, steps=4)))
    draws = draw(jax.random.split(jax.random.key(4), number))
    power = np.asarray(prior.gaussian.covariance.power, float)
    left = power * np.asarray(C) / (power + np.asarray(C))
    modes = np.fft.rfft2(np.asarray(draws) - np.asarray(wiener(prior, x, C)))
    ratio = (np.abs(modes) ** 2).mean(0) / np.prod(SHAPE) / left
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / number)
    pull = np.abs(modes.mean(0)) / np.sqrt(np.prod(SHAPE) * left / number)
    assert pull.max() < 5
    total = float(mean_over_modes(jnp.asarray(ratio), SHAPE))
    assert abs(total - 1) < 5 * np.sqrt(2 / (number * np.prod(SHAPE)))
    louder = jax.jit(jax.vmap(lambda key: prior.denoised_draw(key, x, 2 * C, steps=4)))
    wrong = np.fft.rfft2(np.asarray(louder(jax.random.split(jax.random.key(4), number))) - wiener(prior, x, C))
    assert ((np.abs(wrong) ** 2).mean(0) / np.prod(SHAPE) / left).max() > 1 + 10 * np.sqrt(2 / number)


class Brightnesses(Denoiser):
    """The exact denoiser of images that are as bright as the prior, or by one of `SHARES` as bright, all as likely."""

    def _residual(self, x, noise):
        power = self.power(x.shape, x.dtype) * jnp.asarray([1.0, *SHARES])[:, None, None]
        energy = jnp.abs(jnp.fft.rfft2(x - self.mean)) ** 2 / x.size
        misfit = jax.vmap(lambda p: mean_over_modes(energy / (p + noise) + jnp.log(p + noise), x.shape))(power)
        weights = jax.nn.softmax(-0.5 * x.size * misfit)
        means = self.mean + jnp.fft.irfft2(power / (power + noise) * jnp.fft.rfft2(x - self.mean), s=x.shape)
        fainter = jnp.broadcast_to(weights[1:], (*x.shape, len(SHARES)))
        return jnp.tensordot(weights, means, 1) - self.wiener(x, noise), fainter


class OneSpread(Brightnesses):
    """The same, with the spread of the brightest images for all."""

    def estimate(self, x, noise):
        found = super().estimate(x, noise)
        return Estimate(found.mean, jnp.zeros_like(found.weights).at[0].set(1))


@pytest.mark.parametrize(("kind", "right"), [(Brightnesses, True), (OneSpread, False)])
def test_the_reverse_diffusion_draws_faint_images_as_it_does_bright_ones(kind, right):
    """Truth and draw are exchangeable given the noisy image: any statistic has the same mean in any group of those."""
    base, C = blank().denoiser, coloured()
    prior = DenoiserPrior(kind(base.network, base.spectrum, base.mean), SHAPE, Training(smallest=1e-4))
    gaussian, amplitudes = prior.gaussian, jnp.sqrt(jnp.asarray([1.0, *SHARES]))
    power = gaussian.covariance.power

    def energy(x):
        return jnp.log(mean_over_modes(jnp.abs(jnp.fft.rfft2(x - prior.denoiser.mean)) ** 2 / power, SHAPE))

    @jax.jit
    @jax.vmap
    def case(key):
        which, image, noise, draw = jax.random.split(key, 4)
        bright = amplitudes[jax.random.randint(which, (), 0, len(amplitudes))]
        truth = prior.denoiser.mean + bright * (gaussian.sample(image) - prior.denoiser.mean)
        white = jnp.fft.rfft2(jax.random.normal(noise, SHAPE))
        x = truth + jnp.fft.irfft2(jnp.sqrt(C) * white, s=SHAPE)
        found = prior.denoised_draw(draw, x, C)
        return jnp.argmax(Brightnesses.estimate(prior.denoiser, x, C).weights[:, 0, 0]), energy(found) - energy(truth)

    group, moved = map(np.asarray, case(jax.random.split(jax.random.key(8), 500)))
    pulls = []
    for which in np.unique(group):
        mine = moved[group == which]
        if len(mine) > 20:
            pulls.append(abs(mine.mean()) / (mine.std() / np.sqrt(len(mine))))
    assert len(pulls) >= 2
    assert max(pulls) < 4 if right else max(pulls) > 10


def test_draws_of_the_prior():
    """Untrained: the power of the Gaussian prior."""
    prior = blank(largest=30.0, smallest=1e-3)
    draws = jax.jit(jax.vmap(prior.sample))(jax.random.split(jax.random.key(6), 1000))
    power = np.asarray(prior.gaussian.covariance.power)
    found = (np.abs(np.fft.rfft2(np.asarray(draws, float) - 0.3)) ** 2).mean(0) / np.prod(SHAPE) / power
    assert np.abs(found - 1).max() < 5 * np.sqrt(2 / 1000)


def test_the_score_is_that_of_the_prior_with_noise():
    prior, x = blank(), jax.random.normal(jax.random.key(2), SHAPE)
    blurred = prior.at(0.5)
    np.testing.assert_allclose(blurred.score(x), blurred.gaussian_approximation().score(x), atol=1e-5)
    assert not hasattr(blurred, "log_prob") and not hasattr(prior, "log_prob")


def test_the_widest_modes_are_trusted_least():
    """And all of them where the noise is far above what is left."""
    denoiser, k = blank((64, 64)).denoiser, frequencies((64, 64))
    order = np.argsort(k, axis=None)
    for sigma in (1e-4, 1.0, 1e4):
        trust = np.asarray(denoiser.trust((64, 64), jnp.full(half_shape((64, 64)), sigma**2)))
        assert trust.min() == trust[0, 0] > 0 and (np.diff(trust.ravel()[order]) >= 0).all()
        assert 0.99 < trust[k > 0.2].min() <= trust.max() <= 1
        assert trust[0, 0] > 0.999 if sigma == 1e4 else trust[0, 0] < 0.5


class Whole(Denoiser):
    """Takes what the network says of every mode as it is."""

    def trust(self, shape, noise):
        return jnp.ones_like(noise)


@pytest.mark.parametrize("chosen", [0, 1, len(SHARES)])
def test_the_spread_of_a_draw_is_that_of_what_is_trusted(chosen):
    """Of the total flux and of fine structure, where all pixels take one filter: ``C`` times its derivative."""
    shape, number = (32, 32), 6000
    denoiser = blank(shape).denoiser
    noise = jnp.full(half_shape(shape), 0.3**2)
    weights = jnp.zeros((1 + len(SHARES), *shape)).at[chosen].set(1.0)
    power, trust = np.asarray(denoiser.power(shape)), np.asarray(denoiser.trust(shape, noise))
    share = (1.0, *SHARES)[chosen]
    filters = [p / (p + 0.3**2) for p in (power, share * power)]
    expected = 0.3**2 * (filters[0] + trust * (filters[1] - filters[0]))
    draws = jax.vmap(lambda key: denoiser.scatter(key, weights, noise))(jax.random.split(jax.random.key(0), number))
    modes = np.asarray(jnp.mean(jnp.abs(jnp.fft.rfft2(draws)) ** 2, 0)) / draws[0].size
    for k, scatter in (((0, 0), np.sqrt(2 / number)), ((5, 7), np.sqrt(1 / number))):
        assert modes[k] == pytest.approx(expected[k], rel=4 * scatter)
    if share < 1:
        assert abs(modes[0, 0] / (0.3**2 * filters[1][0, 0]) - 1) > 8 * np.sqrt(2 / number)


def test_a_flux_that_the_data_know_is_left_to_them():
    """The shipped network moves the total flux of galaxies behind a PSF by next to none of its error."""
    side, shipped = 64, learned_prior(shipped_weights("galaxies"), (64, 64)).denoiser
    whole = Whole(shipped.network, shipped.spectrum, shipped.mean)
    y, x = np.indices((side, side)) - side // 2
    transfer = jnp.exp(-4 * (8.0 / 2.3548 * np.pi * frequencies((side, side))) ** 2)

    @eqx.filter_jit
    def moved(denoiser, key):
        wide, flat, draw = jax.random.split(key, 3)
        width = jax.random.uniform(wide, (), jnp.float32, 1.5, 4.0)
        axis = jax.random.uniform(flat, (), jnp.float32, 0.5, 1.0)
        galaxy = 0.05 * jnp.exp(-0.5 * (x**2 + (y / axis) ** 2) / width**2)
        error = galaxy.sum() / 100 / side  # of the widest mode
        noise = jnp.asarray(error**2 * 1.0001 / (transfer + 1e-4), jnp.float32)
        white = jnp.fft.rfft2(jax.random.normal(draw, (side, side), jnp.float32))
        seen = galaxy + jnp.fft.irfft2(jnp.sqrt(noise) * white, s=(side, side))
        return (denoiser(seen, noise).sum() - seen.sum()) / side / error

    keys = jax.random.split(jax.random.key(0), 24)
    kept, changed = (np.sqrt(np.mean([float(moved(d, key)) ** 2 for key in keys])) for d in (shipped, whole))
    assert kept < 0.02
    assert changed > 0.1
