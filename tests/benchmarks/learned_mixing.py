"""How fast split Gibbs sampling forgets where there are gaps in the data and a border, as Markdown tables.

    python tests/benchmarks/learned_mixing.py exact   # a Gaussian prior of the power of `galaxies`
    python tests/benchmarks/learned_mixing.py draws   # `galaxies` itself


A galaxy of the simulator in the middle of 64 x 64 latent pixels, behind a PSF of 8 pixels; a band without data, 4
pixels beside the peak and from one edge to the other, or a border of 8 pixels on all sides. Autocorrelation times
``1 + 2 sum_t rho_t`` are in sweeps. Under a Gaussian prior of the power P a sweep leaves ``P / (P + C) (1 - C H) x`` of
an image x, and the time of the slowest mode is that of its largest eigenvalue l, ``(1 + l) / (1 - l)``.
"""

from __future__ import annotations

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ground_sims import head, row
from learned import blurred, flux_and_size, prior_of

from invprob.diagnostics.rank_statistics import bulk_ess
from invprob.operators import Multiply, compose
from invprob.optimize.data_augmentation import augment
from invprob.posterior import Posterior
from invprob.sampling.sample import sample
from invprob.sampling.samplers import Split

SIDE, BESIDE = 64, 4
WHITE = 1.0  # of `Split.depth`: C changes by a factor of two only
PLACES = ("all", "gap of 4", "gap of 8", "gap of 16", "border of 8", "gap of 8 and border of 8")
SAMPLED = ((20, PLACES[0]), (20, PLACES[5]), *((100, place) for place in PLACES), (500, PLACES[0]), (500, PLACES[5]))
POWER_STEPS = 20_000  # of the iteration for the largest eigenvalue


def seen(place: str) -> np.ndarray:
    """Which pixels have data, one or zero."""
    out = np.ones((SIDE, SIDE), np.float32)
    words = place.split()
    for name, width in zip(words, words[2:], strict=False):
        if name == "gap":
            out[:, SIDE // 2 + BESIDE : SIDE // 2 + BESIDE + int(width)] = 0
        if name == "border":
            n = int(width)
            out[:n] = out[-n:] = out[:, :n] = out[:, -n:] = 0
    return out


def posterior(prior, snr: float, place: str) -> Posterior:
    """That of `learned.blurred`, with data in a part of the pixels."""
    post, _ = blurred(prior, jax.random.key(3), SIDE, snr)
    keep = jnp.asarray(seen(place))
    like = post.likelihood
    like = eqx.tree_at(
        lambda one: (one.operator, one.data), like, (compose(Multiply(keep), like.operator), keep * like.data)
    )
    return Posterior(like, prior)


def slowest(post: Posterior, depth: float) -> float:
    """Autocorrelation time in sweeps of the slowest mode under a Gaussian prior of the same power."""
    problem = augment(post, Split.share, depth)
    power, noise = post.prior.denoiser.power((SIDE, SIDE)), problem.covariance.power
    origin = problem.towards_data(jnp.zeros((SIDE, SIDE), jnp.float32))

    def swept(x):
        modes = jnp.fft.rfft2(problem.towards_data(x) - origin)
        return jnp.fft.irfft2(power / (power + noise) * modes, s=(SIDE, SIDE))

    def grow(_, state):
        x, _ = state
        y = swept(x)
        size = jnp.sqrt(jnp.sum(y**2))
        return y / size, size

    start = jax.random.normal(jax.random.key(0), (SIDE, SIDE), jnp.float32)
    _, largest = jax.jit(lambda x: jax.lax.fori_loop(0, POWER_STEPS, grow, (x, jnp.ones(()))))(start)
    return float((1 + largest) / (1 - largest))


def exact() -> None:
    prior = prior_of("galaxies", (SIDE, SIDE))
    head("S/N", "data", "C that follows 1 / H", "nearly white C", "ratio")
    for snr in (20, 100, 500):
        for place in PLACES:
            post = posterior(prior, snr, place)
            one, other = slowest(post, Split.depth), slowest(post, WHITE)
            row(snr, place, f"{one:.3g}", f"{other:.3g}", f"{other / one:.3g}")


def drawn(number: int) -> None:
    prior = prior_of("galaxies", (SIDE, SIDE))
    head("S/N", "data", "flux", "size", "median pixel with data", "without", "slowest with data", "without", "R-hat")
    for snr, place in SAMPLED:
        found = sample(posterior(prior, snr, place), jax.random.key(0), number, Split(), num_chains=4)
        draws = np.asarray(found.latents)
        of_all = number / bulk_ess(np.asarray(flux_and_size(found.latents)))
        times, data = number / bulk_ess(draws), seen(place) > 0
        cells = [f(times[where]) if where.any() else None for f in (np.median, np.max) for where in (data, ~data)]
        row(
            snr, place, *("" if v is None else f"{v:.2g}" for v in (*of_all, *cells)), f"{found.quality.worst_rhat:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("exact", "draws"))
    parser.add_argument("--draws", type=int, default=400, help="of four chains")
    args = parser.parse_args()
    if args.part == "exact":
        exact()
    else:
        drawn(args.draws)


if __name__ == "__main__":
    main()
