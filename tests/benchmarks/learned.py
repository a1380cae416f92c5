"""How good the shipped learned prior is, as Markdown tables; minutes each on two cores.

    python tests/benchmarks/learned.py denoise --number 300 # simulated galaxies that were held back
    python tests/benchmarks/learned.py bright --number 150 # the brightest of them, and filters that know how bright
    python tests/benchmarks/learned.py real               # real Hubble galaxies of ../shared/data
    python tests/benchmarks/learned.py real --simulated --number 100 # with the same noise and a known truth
    python tests/benchmarks/learned.py ground             # the ground simulations, beside the other priors
    python tests/benchmarks/learned.py ground --noises 4 --others
    python tests/benchmarks/learned.py ground --more --others # of the 32 Hubble galaxies that have no simulation yet
    python tests/benchmarks/learned.py ground --method sample --num-chains 1 --draws 40
    python tests/benchmarks/learned.py mask               # what the masks tell of ellipticities
    python tests/benchmarks/learned.py quality --number 16 # best images by seeing and signal to noise
    python tests/benchmarks/learned.py speed --draws 2000 # effective samples an hour, and the verdict of the gate
    python tests/benchmarks/learned.py calibrate --cases 500 --draws 19
    python tests/benchmarks/learned.py calibrate --cases 60 --draws 19 --truths simulator --side 64
    python tests/benchmarks/learned.py calibrate --cases 60 --draws 19 --truths simulator --side 64 --grain 0.0007
    python tests/benchmarks/learned.py calibrate --cases 60 --draws 19 --control noise
    python tests/benchmarks/learned.py calibrate --cases 40 --draws 19 --control psf --fwhm 16 --side 48 --snr 2000

Errors are root mean squares. The Wiener filter beside is that of the prior's own power spectrum.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ground_sims import head, row
from hubble import HUBBLE, own_noise
from learned_ground import ground, mask

import invprob
from invprob.calibration import PureDraw, Thinned, calibrate, image_summaries
from invprob.covariance import Diagonal
from invprob.learn.galaxies import Population, stamps
from invprob.measure.moments import half_light_radius
from invprob.operators.fourier import half_shape
from invprob.optimize.find_map import find_map
from invprob.posterior import Posterior
from invprob.priors import DenoiserPrior
from invprob.recipes.model_card import load
from invprob.recipes.registry import find_recipe
from invprob.sampling.sample import sample
from invprob.sampling.samplers import Split

LEVELS = (5e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 140.0)  # of white noise, in median peaks
VIEWS = 16
HELD_BACK = 987_654  # seed of stamps that no recipe has


def prior_of(name: str, shape: tuple[int, int]) -> DenoiserPrior:
    """The learned prior for images of a shape."""
    denoiser, training = load(find_recipe(name).path)  # type: ignore[attr-defined]
    return DenoiserPrior(denoiser, shape, training)  # type: ignore[arg-type]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


@eqx.filter_jit
def denoised(prior: DenoiserPrior, x, sigma):
    """The posterior mean given an image with white noise."""
    return prior.denoise(x, sigma)


@eqx.filter_jit
def denoised_in_views(prior: DenoiserPrior, x, sigma):
    """The mean of it over views of the image, as the solver of best images has them one by one."""
    noise = jnp.full(half_shape(x.shape), sigma**2)
    keys = jax.random.split(jax.random.key(0), VIEWS)
    return jnp.mean(jax.lax.map(lambda key: prior.denoise_coloured(x, noise, key), keys), 0)


@eqx.filter_jit
def filtered(prior: DenoiserPrior, x, sigma):
    """The same under the Gaussian prior of the same power."""
    return prior.denoiser.wiener(x, jnp.full(half_shape(x.shape), sigma**2))


def denoise(args: argparse.Namespace) -> None:
    """Errors on simulated galaxies, pooled and of the median galaxy, relative to the Wiener filter."""
    images = stamps(Population(), args.number, 64, HELD_BACK)
    images = images[images.max((1, 2)) > 0]
    peak = float(np.median(images.max((1, 2))))
    prior = prior_of(args.prior, (64, 64))
    columns = ("error / Wiener, pooled", "error / Wiener, median galaxy", "worst tenth")
    head("noise / median peak", "noise", *columns, f"mean of {VIEWS} views, pooled", "median galaxy")
    rng = np.random.default_rng(0)
    for level in LEVELS:
        s = level * peak
        errors = []
        for image in images:
            x = jnp.asarray(image + s * rng.standard_normal(image.shape), jnp.float32)
            sigma = jnp.asarray(s, jnp.float32)
            found = [f(prior, x, sigma) for f in (denoised, denoised_in_views, filtered)]
            errors.append([rms(np.asarray(mean) - image) for mean in found])
        ours, viewed, wiener = np.array(errors).T
        ratios, pooled = ours / wiener, rms(wiener)
        row(f"{level:g}", f"{s:.3g}", f"{rms(ours) / pooled:.3f}", f"{np.median(ratios):.3f}",
            f"{np.quantile(ratios, 0.9):.3f}", f"{rms(viewed) / pooled:.3f}",
            f"{np.median(viewed / wiener):.3f}")  # fmt: skip


def bright(args: argparse.Namespace) -> None:
    """Errors on the brightest galaxies, in units of the noise, beside Wiener filters of more than the prior's power."""
    images = stamps(Population(), args.number, 64, HELD_BACK)
    peaks = images.max((1, 2))
    median, order = float(np.median(peaks[peaks > 0])), np.argsort(-peaks)[:6]
    prior, rng = prior_of(args.prior, (64, 64)), np.random.default_rng(0)
    denoiser = prior.denoiser
    power = denoiser.power((64, 64))
    gains = (1, 10, 100)
    columns = ("noise / median peak", "peak / median peak", "error / noise", "mean of views")
    head(*columns, *(f"Wiener, {g} P" for g in gains))
    for level in (0.01, 0.1, 1.0):
        for image in images[order]:
            s = level * median
            x, sigma = jnp.asarray(image + s * rng.standard_normal(image.shape), jnp.float32), jnp.float32(s)
            modes = jnp.fft.rfft2(x - denoiser.mean)
            filters = [denoiser.mean + jnp.fft.irfft2(g * power / (g * power + s**2) * modes, s=x.shape) for g in gains]
            found = [f(prior, x, sigma) for f in (denoised, denoised_in_views)] + filters
            row(f"{level:g}", f"{image.max() / median:.3g}", *(f"{rms(np.asarray(e) - image) / s:.2f}" for e in found))


def hubble_galaxies(number: int) -> list[tuple[np.ndarray, float, None]]:
    """Real stamps, and the standard deviation of the noise in them."""
    found = [invprob.read_fits(path, psf="none") for path in sorted(HUBBLE.glob("cosmos_*.fits"))[:number]]
    return [(np.where(o.valid, o.data, 0.0), float(np.sqrt(np.median(o.variance[o.valid]))), None) for o in found]


def simulated_galaxies(number: int) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """The same of the simulator, with the galaxies without noise."""
    rng, sigma = np.random.default_rng(1), 0.0025
    clean = stamps(Population(pixel_scales=(0.03, 0.03)), 3 * number, 64, HELD_BACK)
    clean = clean[clean.max((1, 2)) > 10 * sigma][:number]
    return [(image + own_noise(rng, 64, sigma), sigma, image) for image in clean]


def real(args: argparse.Namespace) -> None:
    """Errors on real galaxies to which white noise was added, relative to the Wiener filter.

    The stamps have noise n of their own, of known covariance S, so that the distance of an estimate D from them is not
    its error. By Stein's identity that distance has, beyond the squared error, the mean ``tr S - 2 tr(J S)`` with J the
    derivative of D, and ``tr(J S)`` is the mean of ``n . (D(x + h n) - D(x - h n)) / 2 h`` over other noise like n.
    """
    h = 0.1
    galaxies = simulated_galaxies(args.number) if args.simulated else hubble_galaxies(args.number)
    median = float(np.median([image.max() for image, *_ in galaxies]))
    rng = np.random.default_rng(0)
    known = ["from the galaxy itself"] if args.simulated else []
    head("noise / median peak", "from the image", "median galaxy", "worst tenth", "own noise taken off", "+-", *known)
    for level in (0.1, 0.3, 1.0):
        found = []
        for image, own, clean in galaxies:
            side = 8 * ((len(image) + 23) // 8)
            s, prior = level * median, prior_of(args.prior, (side, side))
            inside = (slice((side - len(image)) // 2, (side + len(image)) // 2),) * 2
            wide, other = s * rng.standard_normal((side, side)), np.zeros((side, side))
            wide[inside] += image
            other[inside] = own_noise(rng, len(image), own)
            for f in (denoised, filtered):
                at, above, below = (
                    np.asarray(f(prior, jnp.asarray(x, jnp.float32), jnp.float32(s)), float)[inside]
                    for x in (wide, wide + h * other, wide - h * other)
                )
                distance = np.sum((at - image) ** 2)
                moved = 2 * np.sum((above - below) * other[inside]) / (2 * h) - own**2 * image.size
                found += [distance, distance + moved, np.nan if clean is None else np.sum((at - clean) ** 2)]
        table = np.reshape(found, (len(galaxies), 2, 3))
        ratios = np.sqrt(table[:, 0, 0] / table[:, 1, 0])
        again = rng.integers(len(table), size=(500, len(table)))
        spread = np.std(np.sqrt(table[again, 0, 1].sum(1) / table[again, 1, 1].sum(1)))
        pooled = np.sqrt(np.divide(*table.sum(0)))
        last = [f"{pooled[2]:.3f}"] if args.simulated else []
        row(f"{level:g}", f"{pooled[0]:.3f}", f"{np.median(ratios):.3f}", f"{np.quantile(ratios, 0.9):.3f}",
            f"{pooled[1]:.3f}", f"{spread:.3f}", *last)  # fmt: skip


def blurred(prior: DenoiserPrior, key, side: int, snr: float, fwhm: float = 8.0) -> tuple[Posterior, np.ndarray]:
    """A galaxy of the simulator behind a round PSF with white noise, of a total signal to noise, on a periodic grid."""
    from invprob import likelihoods
    from invprob.operators import CircularConvolve

    seed = int(jax.random.randint(key, (), 0, 2**30))
    single = replace(Population(), crowding=(0.0, 1.0), faintest=23.5)
    truth = jnp.asarray(stamps(single, 1, side, seed)[0])
    peak = np.unravel_index(int(truth.argmax()), truth.shape)
    truth = jnp.roll(truth, tuple(side // 2 - int(n) for n in peak), (0, 1))
    k = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    transfer = jnp.asarray(np.exp(-2 * (np.pi * k * fwhm / 2.3548) ** 2), jnp.float32)
    operator = CircularConvolve(transfer, (side, side))
    clean = operator(truth)
    sigma = float(jnp.sqrt(jnp.sum(clean**2))) / snr
    data = clean + sigma * jax.random.normal(jax.random.fold_in(key, 1), (side, side), jnp.float32)
    noise = Diagonal(jnp.full((side, side), sigma**2, jnp.float32))
    return Posterior(likelihoods.Gaussian(operator, data, noise), prior), np.asarray(truth)


@jax.jit
def flux_and_size(latents):
    """Of images ``(chain, draw, y, x)``, along a last axis."""
    found = jax.vmap(jax.vmap(image_summaries))(latents)
    return jnp.stack([found["flux"], found["size"]], axis=-1)


def speed(args: argparse.Namespace) -> None:
    """Effective samples an hour at 64 x 64 behind a PSF of 8 pixels."""
    prior = prior_of(args.prior, (64, 64))
    from invprob.diagnostics.rank_statistics import bulk_ess as ess

    head("S/N", "draws", "R-hat", "ESS an hour, total flux", "size", "median pixel", "worst pixel", "gate")
    for snr in (20, 100, 500):
        post, _ = blurred(prior, jax.random.key(3), 64, snr)
        begun = time.perf_counter()
        found = sample(post, jax.random.key(0), args.draws, Split(), num_chains=4)
        seconds = time.perf_counter() - begun
        draws = np.asarray(found.latents)
        flux, size = ess(np.asarray(flux_and_size(found.latents)))
        pixels = ess(draws.reshape(*draws.shape[:2], -1)[..., ::7])
        rates = [f"{v * 3600 / seconds:.0f}" for v in (flux, size, np.median(pixels), pixels.min())]
        row(snr, args.draws, f"{found.quality.worst_rhat:.3f}", *rates, "; ".join(found.failures) or "passed")


def quality(args: argparse.Namespace) -> None:
    """Best images of simulated galaxies by seeing and signal to noise, beside the Gaussian prior of the same power."""
    prior = prior_of(args.prior, (64, 64))
    head("PSF, pixels", "S/N", "relative error", "of Gaussian", "flux error, %", "of Gaussian", "size error, %")
    for fwhm in (4.0, 8.0, 16.0):
        for snr in (20, 50, 100, 200, 500):
            found = []
            for number in range(args.number):
                post, truth = blurred(prior, jax.random.key(100 + number), 64, snr, fwhm)
                wiener = Posterior(post.likelihood, prior.gaussian)
                images = [np.asarray(find_map(p).x, float) for p in (post, wiener)]
                errors = [rms(image - truth) / rms(truth) for image in images]
                fluxes = [100 * abs(image.sum() / truth.sum() - 1) for image in images]
                sizes = [half_light_radius(image, (32.0, 32.0)) for image in (images[0], truth)]
                found.append((*errors, *fluxes, 100 * abs(sizes[0] / sizes[1] - 1)))
            row(f"{fwhm:g}", snr, *(f"{v:.3g}" for v in np.median(found, axis=0)))


class Grainy(eqx.Module):
    """Draws of a sampler, with white noise: what is far below it is not looked at.

    One stamp of the simulator in eight is empty. Draws that are nearly so still have more light than nothing, and the
    rank of nothing among them would count the decimals of the diffusion.
    """

    sampler: Thinned
    sigma: float

    def __call__(self, post: Posterior, key, num_draws: int) -> jax.Array:
        first, grain = jax.random.split(key)
        draws = self.sampler(post, first, num_draws)
        return draws + self.sigma * jax.random.normal(grain, draws.shape, draws.dtype)


def calibrated(args: argparse.Namespace) -> None:
    """The card of the prior: truths of the prior test the sampler, those of the simulator the network."""
    side = args.side
    prior = prior_of(args.prior, (side, side))
    post, _ = blurred(prior, jax.random.key(3), side, args.snr, args.fwhm)
    kinds = {"prior": None, "simulator": None, "disks": ("disk",), "bulges": ("bulge",)}
    truths, sampler = None, Thinned(Split(steps=args.steps), args.thin, num_chains=1)
    if args.truths != "prior":
        population = Population() if kinds[args.truths] is None else replace(Population(), kinds=kinds[args.truths])
        truths = jnp.asarray(stamps(population, args.cases, side, HELD_BACK))
        if args.grain:
            truths += args.grain * jax.random.normal(jax.random.key(4), truths.shape, truths.dtype)
            sampler = Grainy(sampler, args.grain)
    analysed = post
    if args.control == "noise":
        analysed = eqx.tree_at(lambda p: p.likelihood.noise.variance, post, replace_fn=lambda v: v / 1.3)
    if args.control == "psf":
        analysed = eqx.tree_at(lambda p: p.likelihood.operator.otf, post, replace_fn=lambda t: t ** (1.05**2))
    draw = PureDraw(sampler, batch=10)
    found = calibrate(post, draw, jax.random.key(args.seed), truths=truths, analysed=analysed, num_cases=args.cases,
                      num_draws=args.draws)  # fmt: skip
    if args.out:
        Path(args.out).write_text(found.to_json())
    print(f"passed: {found.passed}\n")
    head("check", "p", "Holm")
    for c in found.checks:
        row(c.name, f"{c.p_value:.3g}", f"{c.corrected:.3g}")
    for c in found.coverages:
        row(c.name, f"{c.level:g}", f"{100 * c.value:.1f}")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "denoise": denoise, "bright": bright, "real": real, "ground": ground, "mask": mask, "quality": quality,
    "speed": speed, "calibrate": calibrated,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--prior", default="galaxies", help="name or file of the learned prior")
    parser.add_argument("--number", type=int, default=40, help="galaxies")
    parser.add_argument("--method", default="map", choices=("map", "sample"))
    parser.add_argument("--draws", type=int, default=200, help="draws of all chains, or of each case")
    parser.add_argument("--num-chains", type=int, default=4)
    parser.add_argument("--files", nargs="*", help="numbers of ground simulations; default: all")
    parser.add_argument("--noises", type=int, default=0, help="other realizations of the noise; default: the files'")
    parser.add_argument("--more", action="store_true", help="simulations of the other Hubble galaxies")
    parser.add_argument("--others", action="store_true", help="the other priors as well")
    parser.add_argument("--simulated", action="store_true", help="simulated galaxies with the noise of the real ones")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--side", type=int, default=32, help="pixels on a side; truths of the simulator need 64")
    parser.add_argument("--steps", type=int, default=40, help="of the reverse diffusion")
    parser.add_argument("--thin", type=int, default=1, help="sweeps from one draw to the next")
    parser.add_argument("--truths", default="prior", choices=("prior", "simulator", "disks", "bulges"))
    parser.add_argument("--control", default="none", choices=("none", "noise", "psf"))
    parser.add_argument("--grain", type=float, default=0.0, help="noise given to truths of the simulator and to draws")
    parser.add_argument("--snr", type=float, default=100.0, help="of a typical galaxy")
    parser.add_argument("--fwhm", type=float, default=6.0, help="of the PSF, pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="calibration card to write")
    args = parser.parse_args()
    PARTS[args.part](args)


if __name__ == "__main__":
    main()
