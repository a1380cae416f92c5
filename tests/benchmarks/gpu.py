"""Print what the Gaussian solve does on this machine's accelerator: agreement with the CPU, and times.

    python tests/benchmarks/gpu.py

Makes its own scenes. On a GPU absolute times are given, after one call for compilation; without a GPU it says so and
prints the CPU's side alone.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import invprob as ip
from invprob.optimize.solvers import ConjugateGradient


def problem(side: int, seed: int, device) -> ip.Posterior:
    """A simulated scene of galaxies-like noise seen through a Moffat PSF, with a mask and varying noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-20:21, -20:21]
    psf = (1 + (x**2 + y**2) / 3.0**2) ** -3.0
    shape = (side, side)
    with jax.default_device(device):
        prior = ip.priors.GaussianField(shape, ip.priors.PowerLaw(jnp.float32(1e3), jnp.float32(0.1), jnp.float32(6.0)))
        forward = ip.operators.Convolve(jnp.asarray(psf / psf.sum(), jnp.float32), shape)
        seen = forward.out_structure.shape
        variance = jnp.asarray(rng.uniform(0.5, 2.0, seen), jnp.float32)
        valid = jnp.asarray(rng.random(seen) > 0.02)
        empty = ip.likelihoods.Gaussian(forward, jnp.zeros(seen, jnp.float32), variance, valid)
        truth = prior.sample(jax.random.key(seed))
        data = empty.simulate(jax.random.key(seed + 1), truth)
        return ip.Posterior(ip.likelihoods.Gaussian(forward, data, variance, valid), prior)


def seconds(call, repeats: int = 5) -> float:
    """Least wall seconds of a few calls, the first not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="*", default=[256, 1024, 2048])
    parser.add_argument("--stamps", type=int, default=256)
    options = parser.parse_args()
    cpu = jax.devices("cpu")[0]
    device = jax.devices()[0]
    if device.platform == "cpu":
        print("no GPU here: the CPU's figures alone")
    print(f"jax {jax.__version__} on {device.device_kind}\n")
    print("| side | steps | largest difference / peak | ms |\n|---|---|---|---|")
    for side in options.sides:
        here = problem(side, 1, device)
        best = ip.find_map(here, rtol=1e-5)
        there = ip.find_map(problem(side, 1, cpu), rtol=1e-5)
        a, b = np.asarray(best.x), np.asarray(there.x)
        away = np.abs(a - b).max() / np.abs(b).max()
        ms = 1e3 * seconds(lambda here=here: np.asarray(ip.find_map(here, rtol=1e-5).x))
        print(f"| {side} | {best.steps} | {away:.1e} | {ms:.1f} |", flush=True)
    posts = jax.tree.map(lambda *a: jnp.stack(a), *[problem(108, i, device) for i in range(options.stamps)])
    one = seconds(lambda: np.asarray(ip.optimize.solve_many(posts, rtol=1e-4).x))
    together = jax.jit(jax.vmap(lambda post: ip.optimize.solve(post, ConjugateGradient(rtol=1e-4)).x))
    all_at_once = seconds(lambda: np.asarray(together(posts)))
    print(f"\nstamps a second: {options.stamps / one:.0f} one by one, {options.stamps / all_at_once:.0f} under vmap")


if __name__ == "__main__":
    main()
