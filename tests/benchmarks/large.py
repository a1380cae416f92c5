"""64 exact draws of a Gaussian posterior of a million pixels: time, memory, and the error of their standard deviation.

    taskset -c 1 python tests/benchmarks/large.py --arrays FOLDER --shared ../shared/benchmarks

The posterior is O1 of the 1024-pixel scene of the common benchmarks. Each line is a process of its own, since a process
only knows the peak of its memory; of the draws only the moments are kept, unless it says so. Seconds are process CPU
seconds. The truth is the exact standard deviation of 200 pixels, by one solve for each; some of these solves are done
again in float64 by scipy with the operators of the common evaluator.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp
import numpy as np
from gaussian import posterior

import invprob as ip
from invprob.sampling.samplers import exact_draws, exact_sampler
from invprob.sampling.samplers.gaussian import variance_along

PIXELS = 200
CHECKED = 6  # of them, in float64


def row(*cells) -> None:
    """One line of a Markdown table."""
    print("| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def peak() -> int:
    """Most bytes that this process has held (Linux); what ``getrusage`` tells begins with the peak of the parent."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def seconds(call):
    """A result and its CPU seconds."""
    start = time.process_time()
    out = jax.block_until_ready(call())
    return out, time.process_time() - start


def squares(total, values):
    """The running sum of the squared deviations."""
    total = 0 if total is None else total
    return total + jnp.sum(values**2, axis=0)


def one_run(problem, number: int, keep: bool) -> dict:
    """A number of draws, after one MAP solve: seconds, peaks of memory and standard deviations."""
    pixels, started = problem_pixels(problem), peak()
    post = posterior(problem)
    _, first = seconds(lambda: ip.find_map(post).x)
    solution, again = seconds(lambda: ip.find_map(post))
    out = dict(started=started, map_first=first, map=again, map_steps=solution.steps, map_peak=peak())

    def draws(key, count):
        if keep:
            result = ip.sample(post, jax.random.key(key), count, "exact")
            return jnp.asarray(result.std[pixels]), result.status.ok
        sampler = exact_sampler(post)
        total, good = exact_draws(post, jax.random.key(key), count, lambda d: d, sampler=sampler, fold=squares)
        return jnp.sqrt(total[pixels] / count), good

    few = 16 if keep else 8  # the draws of one compiled call
    _, first = seconds(lambda: draws(1, few))
    _, again = seconds(lambda: draws(1, few))
    (sd, good), spent = seconds(lambda: draws(2, number))
    return out | dict(compile=first - again, draws=spent, peak=peak(), good=bool(good), sd=np.asarray(sd).tolist())


def problem_pixels(problem):
    """Where the standard deviation is looked at."""
    import evaluate

    return evaluate.test_pixels(problem, PIXELS)


def exact_sd(problem) -> np.ndarray:
    """The standard deviation of the test pixels, one solve for each."""
    post, empty = posterior(problem), jnp.zeros(problem.shape, jnp.float32)
    pixels = jnp.stack([jnp.asarray(p) for p in problem_pixels(problem)], axis=1)
    one = jax.jit(lambda at: variance_along(post, empty.at[at[0], at[1]].set(1), rtol=1e-4))
    found = [one(at) for at in pixels]
    assert all(int(code) == 1 for _, code in found)
    return np.sqrt([float(variance) for variance, _ in found])


def check_in_double(problem, sd: np.ndarray) -> float:
    """Largest relative difference from a few solves by scipy in float64."""
    import evaluate
    import scipy.fft
    from scipy.sparse.linalg import LinearOperator, cg

    def spectral(x, factor):
        return scipy.fft.irfft2(scipy.fft.rfft2(x.reshape(problem.shape)) * factor, s=problem.shape).ravel()

    def precision(x):
        seen = problem.ivar * evaluate.forward(problem, x.reshape(problem.shape))
        return evaluate.adjoint(problem, seen).ravel() + spectral(x, 1 / problem.half_power)

    size = problem.grid**2
    circulant = 1 / (problem.mean_ivar * np.abs(problem.otf) ** 2 + 1 / problem.half_power)
    K = LinearOperator((size, size), precision)
    M = LinearOperator((size, size), lambda x: spectral(x, circulant))
    worst = 0.0
    for i, (y, x) in list(enumerate(zip(*problem_pixels(problem), strict=True)))[:CHECKED]:
        delta = np.zeros(problem.shape)
        delta[y, x] = 1
        solution, code = cg(K, delta.ravel(), rtol=1e-6, maxiter=2000, M=M)
        assert code == 0
        worst = max(worst, abs(sd[i] / np.sqrt(solution.reshape(problem.shape)[y, x]) - 1))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrays", type=Path, required=True, help="folder of scene_1024.npz")
    parser.add_argument("--shared", type=Path, default=Path("../shared/benchmarks"), help="the common benchmarks")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--draws", type=int, nargs="*", default=[16, 64, 256], help="one line for each")
    parser.add_argument("--keep", type=int, nargs="*", default=[64], help="and one for each with all draws kept")
    parser.add_argument("--only", choices=["moments", "draws"], help="one run in this process, told as JSON")
    options = parser.parse_args()
    sys.path.insert(0, str(options.shared.resolve()))
    import evaluate

    problem = evaluate.load(options.size, options.arrays)
    if options.only:
        print(json.dumps(one_run(problem, options.draws[0], options.only == "draws")))
        return
    truth = exact_sd(problem)
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {problem.grid} x {problem.grid} latent pixels")
    print(f"exact standard deviations: within {check_in_double(problem, truth):.1e} of those of scipy in float64\n")
    row(
        "draws", "kept", "CPU s", "in MAP solves", "a draw in MAP solves", "compiling, s", "peak, MB", "bytes a pixel",
        "of the MAP solve", "sd bias", "sd rms error", "all solved",
    )  # fmt: skip
    row(*["---"] * 12)
    for kept, number in [*(("moments", n) for n in options.draws), *(("draws", n) for n in options.keep)]:
        arguments = ["--arrays", options.arrays, "--shared", options.shared, "--size", options.size, "--only", kept]
        command = [sys.executable, __file__, *map(str, arguments), "--draws", str(number)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        r = json.loads(told)
        ratio, size = np.array(r["sd"]) / truth, problem.grid**2
        row(
            number, kept, r["draws"], r["draws"] / r["map"], r["draws"] / r["map"] / number, r["compile"],
            round(r["peak"] / 1e6), (r["peak"] - r["started"]) / size, (r["map_peak"] - r["started"]) / size,
            float(ratio.mean() - 1), float(np.sqrt(np.mean((ratio - 1) ** 2))), r["good"],
        )  # fmt: skip
        print(f"MAP solve: {r['map_steps']} steps, {r['map']:.3g} s, the first {r['map_first']:.3g} s", file=sys.stderr)


if __name__ == "__main__":
    main()
