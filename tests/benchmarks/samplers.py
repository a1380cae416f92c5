"""Time the samplers beside the peers on the 64-pixel scene of the common benchmarks, in one run on one core.

    taskset -c 1 python tests/benchmarks/samplers.py --arrays FOLDER --shared ../shared/benchmarks \
        --peer-python PYTHON --deepinv-python PYTHON --reference-file FILE

The first part is the posterior of O1 (11,664 unknowns), whose exact standard deviations are known; the second the
posterior of a total variation prior on the same data, compared with a long run of its own Gibbs sampler, which a long
run of Hamiltonian Monte Carlo checks. Each peer runs before and after, and its times are the mean of the two. Times are
process CPU seconds; the first call, which compiles, is timed on its own. Effective sample sizes are those of the common
evaluator, the median over 300 pixels; those "for the sd" are of the squared deviations. A posterior of a million pixels
is in `large.py`.
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
from invprob.sampling.samplers import HMC, NUTS, Langevin, ScaleMixture, exact_sampler

ENOUGH = 400  # effective samples
TV = 0.1  # strength of O2
SKROCK = (  # the best of what was tried, of each kind of gradient; see docs/benchmarks.md
    "--prior subgradient --stages 5 --smoothing 10 --iterations 3000",
    "--prior subgradient --stages 7 --smoothing 10 --iterations 2000",
    "--prior huber --stages 7 --smoothing 30 --iterations 2000",
    "--prior huber --stages 10 --smoothing 30 --iterations 2000",
    "--prior moreau --stages 7 --smoothing 10 --inner 3 --tau 1 --iterations 1000",
)


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


def peers(options, calls: dict[str, tuple[str, ...]], python: str | None = None) -> dict[str, dict]:
    """The JSON lines of some peers, by name."""
    return {name: peer(options, *call, python=python) for name, call in calls.items()}


def mean_of(before: dict[str, dict], after: dict[str, dict]) -> dict[str, dict]:
    """Of the numbers of two runs; the draws of both are the same."""

    def one(a: dict, b: dict) -> dict:
        return {key: 0.5 * (value + b[key]) if isinstance(value, float) else value for key, value in a.items()}

    return {name: one(line, after[name]) for name, line in before.items()}


def gaussian_part(options, evaluate, problem) -> None:
    """The O1 posterior."""
    post, pixels = posterior(problem), evaluate.test_pixels(problem)
    sd = evaluate.stored(64, "O1_sd")
    best = evaluate.stored(64, "O1")[pixels]
    module, before = "peers.samplers", {}
    calls = {
        f"NIFTy.re, {n} steps": (module, "--method", "nifty", "--iterations", n, "--draws", "400") for n in ("30", "60")
    }
    if options.peer_python:
        before = peers(options, calls)
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
    for name, line in mean_of(before, peers(options, calls) if before else {}).items():
        row(
            name, line["draws"], line["ess_median_per_second"], line["sd_bias"], line["sd_rms_error"],
            line["mean_rms_error_in_sd"],
        )  # fmt: skip
    calls = {f"{m} NUTS": (module, "--method", m) for m in ("blackjax", "blackjax-pullback")}
    if options.peer_python:
        before = peers(options, calls)
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
    for name, line in mean_of(before, peers(options, calls) if before else {}).items():
        to = line["warmup_cpu"] + ENOUGH / line["ess_median_per_second"]
        row(name, "200 + 150", line["gradients"], line["ess_median"], to, "-", line["sd_bias"], "-")


def reference(options, tv, pixels) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the test pixels, and how far a second sampler is from them; kept in a file."""
    file = options.reference_file
    if not file.exists():

        def long(number, key, sampler):
            result = ip.sample(tv, jax.random.key(key), number, sampler, view=lambda x: x[pixels])
            draws = np.asarray(result.latents, float)
            return draws.mean((0, 1)), draws.std((0, 1))

        mean, sd = long(options.reference, 7, ScaleMixture(num_warmup=100))
        check_mean, check_sd = long(4 * options.reference, 3, HMC(num_warmup=500))
        counts = dict(draws=options.reference, check_draws=4 * options.reference)
        np.savez(file, mean=mean, sd=sd, check_mean=check_mean, check_sd=check_sd, **counts)
    with np.load(file) as z:
        ratio, away = z["check_sd"] / z["sd"], (z["check_mean"] - z["mean"]) / z["sd"]
        rms, mean_rms = np.sqrt(np.mean((ratio - 1) ** 2)), np.sqrt(np.mean(away**2))
        print(
            f"\nTotal variation, strength {TV}, against {z['draws']} Gibbs draws; {z['check_draws']} draws of HMC: "
            f"sd {ratio.mean() - 1:+.2%}, rms {rms:.1%}, mean rms {mean_rms:.3f} sd\n"
        )
        return z["mean"], z["sd"]


def sparse_part(options, evaluate, problem) -> None:
    """Total variation on the same data."""
    post, pixels = posterior(problem), evaluate.test_pixels(problem)
    tv = ip.Posterior(post.likelihood, ip.priors.TotalVariation(problem.shape, jnp.float32(TV)))
    best, sd = reference(options, tv, pixels)
    script, before = str(Path(__file__).with_name("peers_skrock.py")), {}
    calls = {f"SK-ROCK {s}": (script, "--reference", str(options.reference_file), *s.split()) for s in SKROCK}
    if options.deepinv_python:
        before = peers(options, calls, options.deepinv_python)
    row(
        "run", "draws", "effective a second", "of the worst pixel", "for the sd", "sd bias", "sd rms error",
        "mean rms error / sd", f"s to {ENOUGH}",
    )  # fmt: skip
    row(*["---"] * 9)

    def told(name, draws, cpu, warm):
        found = median_ess(evaluate, draws)
        worst = float(np.min(sum(evaluate.effective_samples(chain) for chain in draws)))
        ratio, drawing = draws.std((0, 1)) / sd, cpu * (1 - warm)
        squares = median_ess(evaluate, (draws - draws.mean((0, 1))) ** 2)
        row(
            name, draws.shape[0] * draws.shape[1], found / drawing, worst / drawing, squares / drawing,
            float(np.mean(ratio) - 1),
            float(np.sqrt(np.mean((ratio - 1) ** 2))),
            float(np.sqrt(np.mean(((draws.mean((0, 1)) - best) / sd) ** 2))),
            cpu * (warm + (1 - warm) * ENOUGH / found),
        )  # fmt: skip

    for sampler, number in (
        (ScaleMixture(), 600), (ScaleMixture(rtol=1e-3), 600), (HMC(), 800), (Langevin(), 2000),
        (Langevin(step_length=0.5), 2000),
    ):  # fmt: skip
        result, _, cpu = timed(lambda s=sampler, n=number: ip.sample(tv, jax.random.key(1), n, s))
        draws = chains_of(result, pixels)
        warm = sampler.num_warmup / (sampler.num_warmup + draws.shape[1])
        told(f"invprob, {sampler}, 4 chains", draws, cpu, warm)
    for name, line in mean_of(before, peers(options, calls, options.deepinv_python) if before else {}).items():
        rate = line["ess_median"] / line["cpu"]
        row(
            name, line["draws"], rate, line["ess_min"] / line["cpu"], line["ess_of_squares"] / line["cpu"],
            line["sd_bias"], line["sd_rms_error"], line["mean_rms_error_in_sd"], line["burn_in_cpu"] + ENOUGH / rate,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrays", type=Path, required=True, help="folder of scene_64.npz")
    parser.add_argument("--shared", type=Path, default=Path("../shared/benchmarks"), help="the common benchmarks")
    parser.add_argument("--peer-python", help="Python of an environment with nifty and blackjax; default: no peer")
    parser.add_argument("--deepinv-python", help="Python of an environment with deepinv; default: no SK-ROCK")
    parser.add_argument("--reference-file", type=Path, default=Path("tv_reference.npz"), help="made if it is not there")
    parser.add_argument("--parts", nargs="*", default=["gaussian", "sparse"], choices=["gaussian", "sparse"])
    parser.add_argument("--draws", type=int, default=400, help="independent draws")
    parser.add_argument("--reference", type=int, default=4000, help="draws of the reference of the sparse part")
    options = parser.parse_args()
    options.shared, options.arrays = options.shared.resolve(), options.arrays.resolve()
    options.reference_file = options.reference_file.resolve()
    sys.path.insert(0, str(options.shared))
    import evaluate

    problem = evaluate.load(64, options.arrays)
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}")
    for part in options.parts:
        {"gaussian": gaussian_part, "sparse": sparse_part}[part](options, evaluate, problem)


if __name__ == "__main__":
    main()
