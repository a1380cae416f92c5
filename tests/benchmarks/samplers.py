"""Time the samplers beside the peers on the 64-pixel scene of the common benchmarks, in one run on one core.

    taskset -c 1 python tests/benchmarks/samplers.py --arrays FOLDER --shared ../shared/benchmarks \
        --peer-python PYTHON

The first part is the posterior of O1 (11,664 unknowns), whose exact standard deviations are known; the second the
posterior of a total variation prior on the same data, compared with a long run of its own. Times are process CPU
seconds; the first call, which compiles, is timed on its own. Effective sample sizes are those of the common evaluator,
the median over 300 pixels.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp
import numpy as np
from gaussian import peer, posterior

import invprob as ip
from invprob.infer.samplers import HMC, NUTS, ScaleMixture, exact_sampler

ENOUGH = 400  # effective samples
TV = 0.1  # strength of O2


def row(*cells) -> None:
    """One line of a Markdown table."""
    print("| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def timed(call):
    """A result, CPU seconds of the first call, and of the second."""
    start = time.process_time()
    call()
    middle = time.process_time()
    out = call()
    return out, middle - start, time.process_time() - middle


def chains_of(result, pixels) -> np.ndarray:
    """Draws of the test pixels, ``(chain, draw, pixel)``."""
    return np.asarray(result.latents, float)[:, :, pixels[0], pixels[1]]


def median_ess(evaluate, draws: np.ndarray) -> float:
    """Summed over the chains."""
    return float(np.median(sum(evaluate.effective_samples(chain) for chain in draws)))


def gaussian_part(options, evaluate, problem) -> None:
    """The O1 posterior."""
    post, pixels = posterior(problem), evaluate.test_pixels(problem)
    sd = evaluate.stored(64, "O1_sd")
    best = evaluate.stored(64, "O1")[pixels]
    print("\nO1, independent draws\n")
    row("run", "draws", "effective a second", "sd bias", "sd rms error", "mean rms error / sd")
    row(*["---"] * 6)
    for rtol in (1e-3, 1e-4, 1e-6):
        sampler = exact_sampler(post, rtol)
        result, _, cpu = timed(lambda s=sampler: ip.sample(post, jax.random.key(1), options.draws, s))
        draws = chains_of(result, pixels)[0]
        ratio = draws.std(0, ddof=1) / sd
        row(
            f"invprob, {sampler.name}, rtol {rtol:g}", len(draws), len(draws) / cpu, float(np.mean(ratio) - 1),
            float(np.sqrt(np.mean((ratio - 1) ** 2))), float(np.sqrt(np.mean(((draws.mean(0) - best) / sd) ** 2))),
        )  # fmt: skip
    if options.peer_python:
        for steps in ("30", "60"):
            line = peer(options, "peers.samplers", "--method", "nifty", "--iterations", steps, "--draws", "400")
            row(
                f"NIFTy.re, {steps} steps", line["draws"], line["ess_median_per_second"], line["sd_bias"],
                line["sd_rms_error"], line["mean_rms_error_in_sd"],
            )  # fmt: skip
    print(f"\nO1, chains: CPU seconds from the start to a median effective sample size of {ENOUGH}\n")
    row("run", "warm-up and draws", "gradients", "effective", f"s to {ENOUGH}", "compiling", "sd bias", "status")
    row(*["---"] * 8)
    for sampler, number in ((HMC(), 800), (NUTS(), 400)):
        result, first, cpu = timed(lambda s=sampler, n=number: ip.sample(post, jax.random.key(1), n, s))
        draws = chains_of(result, pixels)
        found = median_ess(evaluate, draws)
        warm = sampler.num_warmup / (sampler.num_warmup + draws.shape[1])
        to = cpu * (warm + (1 - warm) * ENOUGH / found)
        bias = float(np.mean(draws.std((0, 1)) / sd) - 1)
        row(
            f"invprob, {sampler.name}, 4 chains", f"4 x {sampler.num_warmup} + {number}", result.gradients, found, to,
            first - cpu, bias, result.status.name,
        )  # fmt: skip
    if options.peer_python:
        for method in ("blackjax", "blackjax-pullback"):
            line = peer(options, "peers.samplers", "--method", method)
            to = line["warmup_cpu"] + ENOUGH / line["ess_median_per_second"]
            row(f"{method} NUTS", "200 + 150", line["gradients"], line["ess_median"], to, "-", line["sd_bias"], "-")


def sparse_part(options, evaluate, problem) -> None:
    """Total variation on the same data."""
    post, pixels = posterior(problem), evaluate.test_pixels(problem)
    tv = ip.Posterior(post.likelihood, ip.priors.TotalVariation(problem.shape, jnp.float32(TV)))
    reference = chains_of(ip.sample(tv, jax.random.key(7), options.reference, ScaleMixture(num_warmup=50)), pixels)
    sd, best = reference.std((0, 1)), reference.mean((0, 1))
    print(f"\nTotal variation, strength {TV}; reference of {options.reference} Gibbs draws\n")
    row(
        "run", "draws", "effective a second", "of the worst pixel", "sd bias", "sd rms error", "mean rms error / sd",
        f"s to {ENOUGH}",
    )  # fmt: skip
    row(*["---"] * 8)

    def told(name, draws, cpu, warm):
        found = median_ess(evaluate, draws)
        worst = float(np.min(sum(evaluate.effective_samples(chain) for chain in draws)))
        ratio = draws.std((0, 1)) / sd
        row(
            name, draws.shape[0] * draws.shape[1], found / (cpu * (1 - warm)), worst / (cpu * (1 - warm)),
            float(np.mean(ratio) - 1),
            float(np.sqrt(np.mean((ratio - 1) ** 2))),
            float(np.sqrt(np.mean(((draws.mean((0, 1)) - best) / sd) ** 2))),
            cpu * (warm + (1 - warm) * ENOUGH / found),
        )  # fmt: skip

    for sampler, number in ((ScaleMixture(), 600), (HMC(), 800)):
        result, _, cpu = timed(lambda s=sampler, n=number: ip.sample(tv, jax.random.key(1), n, s))
        draws = chains_of(result, pixels)
        warm = sampler.num_warmup / (sampler.num_warmup + draws.shape[1])
        told(f"invprob, {sampler.name}, 4 chains", draws, cpu, warm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrays", type=Path, required=True, help="folder of scene_64.npz")
    parser.add_argument("--shared", type=Path, default=Path("../shared/benchmarks"), help="the common benchmarks")
    parser.add_argument("--peer-python", help="Python of an environment with nifty and blackjax; default: no peer")
    parser.add_argument("--parts", nargs="*", default=["gaussian", "sparse"], choices=["gaussian", "sparse"])
    parser.add_argument("--draws", type=int, default=400, help="independent draws")
    parser.add_argument("--reference", type=int, default=4000, help="draws of the reference of the sparse part")
    options = parser.parse_args()
    options.shared, options.arrays = options.shared.resolve(), options.arrays.resolve()
    sys.path.insert(0, str(options.shared))
    import evaluate

    problem = evaluate.load(64, options.arrays)
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}")
    for part in options.parts:
        {"gaussian": gaussian_part, "sparse": sparse_part}[part](options, evaluate, problem)


if __name__ == "__main__":
    main()
