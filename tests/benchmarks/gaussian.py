"""Time the Gaussian solve (objective O1) and its batch of stamps (W2) beside the peers, in one run on one core.

    taskset -c 1 python tests/benchmarks/gaussian.py --arrays FOLDER --shared ../shared/benchmarks --peer-python PYTHON

The folder holds the arrays that ``workload.py`` of the common benchmarks makes; its evaluator judges every image in
float64, and its prototype runs in this process. With ``--peer-python`` (an environment that has nifty) the peer runs
right after in a process of its own. Times are process CPU seconds, compilation left out. What counts are the ratios:
times of one machine say nothing of another.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import invprob as ip
from invprob.optimize.solvers import ConjugateGradient, TwoGrid

REPEATS = 7


def f32(array):
    return jnp.asarray(array, jnp.float32)


def posterior(problem) -> ip.Posterior:
    """O1 through the public API: Hx on a periodic grid, the frame cut out, variances and mask as given."""
    op = ip.operators
    blur = op.CircularConvolve.from_kernel(f32(problem.psf), problem.shape)
    forward = op.Crop(problem.shape, problem.frame) @ blur
    ivar = problem.ivar[problem.frame]
    valid = ivar > 0
    noise = ip.Diagonal(f32(1 / np.where(valid, ivar, 1)))
    likelihood = ip.likelihoods.Gaussian(forward, f32(problem.data[problem.frame]), noise, jnp.asarray(valid))
    prior = ip.priors.Gaussian(None, ip.Stationary(f32(problem.half_power), problem.shape))
    return ip.Posterior(likelihood, prior)


def cpu(call) -> float:
    """Least CPU seconds of a few calls, the first not counted."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def peer(options, module: str, *arguments: str, python: str | None = None) -> dict:
    """One peer, a module or a file, in its own environment; its JSON line."""
    environment = {**os.environ, "PYTHONPATH": str(options.shared), "INVPROB_BENCH": str(options.arrays)}
    with tempfile.TemporaryDirectory() as folder:
        line = subprocess.run(
            [python or options.peer_python, *([module] if module.endswith(".py") else ["-m", module]), *arguments],
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
    return json.loads(line)


def prototype_seconds(evaluate, prototype, problem, gap, target) -> tuple[int, float]:
    """Steps and time of the prototype to a gap."""
    terms = prototype.terms(problem)
    start = prototype.wiener_start(terms)
    advance = jax.jit(lambda n, s: prototype.to_image(prototype.wiener_advance(terms, n, s)[0]))
    steps = 4
    while gap(np.array(advance(steps, start))) > target:
        steps += 1
    return steps, cpu(lambda: np.array(advance(steps, start)))


def scene(options, evaluate, prototype, size: int) -> None:
    """Rows of one scene."""
    problem = evaluate.load(size, options.arrays)
    gap = evaluate.gap_function(problem, "O1")
    post = posterior(problem)
    nifty = None
    if options.peer_python:
        nifty = peer(options, "peers.nifty_map", "--size", str(size))
    for name, target in evaluate.TARGETS.items():
        steps, floor = prototype_seconds(evaluate, prototype, problem, gap, target)
        fft = evaluate.fft_pair_ms(problem.grid)
        for solver in (TwoGrid.fitting(post, target), ConjugateGradient(rtol=target)):
            result = ip.find_map(post, solver)
            seconds = cpu(lambda solver=solver: np.asarray(ip.find_map(post, solver).x))
            _, again = prototype_seconds(evaluate, prototype, problem, gap, target)
            base = 0.5 * (floor + again)
            peer_ratio = "-"
            if nifty is not None and nifty[name] is not None:
                peer_ratio = f"{nifty[name]['cpu'] / seconds:.0f}"
            row = [
                str(size),
                name,
                result.solver,
                str(result.steps),
                f"{gap(np.asarray(result.x, float)):.1e}",
                f"{result.report.gap:.1e}",
                f"{1e3 * seconds / fft:.0f}",
                f"{base / seconds:.2f} ({steps} steps)",
                peer_ratio,
            ]
            print("| " + " | ".join(row) + " |", flush=True)


def stamps(options, evaluate, prototype) -> None:
    """Rows of the stamps."""
    problems = evaluate.load_stamps(options.stamps, options.arrays)
    best = evaluate.stored(64, "stamps_f")[: len(problems)]
    posts = jax.tree.map(lambda *a: jnp.stack(a), *[posterior(p) for p in problems])
    stacked = prototype.Terms(*(jnp.stack(c) for c in zip(*map(prototype.terms, problems), strict=True)))
    stacked = stacked._replace(mean_ivar=stacked.mean_ivar[:, None, None])
    batches = jax.tree.map(lambda a: a[:, None], stacked)

    def gaps(images):
        return np.array([evaluate.f1(p, x) for p, x in zip(problems, images, strict=True)]) / best - 1

    def row(name, images, steps, seconds):
        g = gaps(np.asarray(images, float))
        cells = [name, f"{steps:.0f}", f"{np.median(g):.1e}", f"{g.max():.1e}", f"{len(problems) / seconds:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
        return len(problems) / seconds

    rates = {}
    for rtol in (1e-4, 7e-5):
        solution = ip.optimize.solve_many(posts, rtol=rtol)
        seconds = cpu(lambda rtol=rtol: np.asarray(ip.optimize.solve_many(posts, rtol=rtol).x))
        rates[rtol] = row(f"invprob `solve_many`, rtol {rtol:g}", solution.x, np.mean(solution.steps), seconds)
    plain = ConjugateGradient(rtol=7e-5)
    solution = ip.optimize.solve_many(posts, plain)
    seconds = cpu(lambda: np.asarray(ip.optimize.solve_many(posts, plain).x))
    row("the same on one grid", solution.x, np.mean(solution.steps), seconds)
    for steps in (50, 70):
        images = np.array(prototype.solve_stamps(batches, steps))[:, 0]
        seconds = cpu(lambda steps=steps: np.array(prototype.solve_stamps(batches, steps)))
        row("prototype", images, steps, seconds)
    if options.peer_python:
        found = peer(options, "peers.stamps", "--tool", "nifty", "--iterations", "70", "--number", str(len(problems)))
        cells = ["nifty, by hand", "70", f"{found['gap_median']:.1e}", f"{found['gap_max']:.1e}"]
        print("| " + " | ".join([*cells, f"{found['stamps_per_second']:.0f}"]) + " |")
        print(f"\nratio to nifty: {rates[7e-5] / found['stamps_per_second']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrays", type=Path, required=True, help="folder of scene_*.npz and stamps.npz")
    parser.add_argument("--shared", type=Path, default=Path("../shared/benchmarks"), help="the common benchmarks")
    parser.add_argument("--peer-python", help="Python of an environment with nifty; default: no peer")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 1024])
    parser.add_argument("--stamps", type=int, default=192, help="number of stamps, 0 for none")
    options = parser.parse_args()
    options.shared, options.arrays = options.shared.resolve(), options.arrays.resolve()
    sys.path.insert(0, str(options.shared))
    import evaluate
    import prototype

    device = jax.devices()[0]
    print(f"jax {jax.__version__}, equinox {eqx.__version__}, {device.platform}\n")
    if options.sizes:
        heads = (
            "size, gap asked, solver, steps, gap, its estimate, time in FFT pairs, prototype / invprob, nifty / invprob"
        )
        print("| " + " | ".join(heads.split(", ")) + " |\n" + "|---" * 9 + "|")
    for size in options.sizes:
        scene(options, evaluate, prototype, size)
    if options.stamps:
        print("\n| run | mean steps | median gap | largest gap | stamps/s |\n|---|---|---|---|---|")
        stamps(options, evaluate, prototype)


if __name__ == "__main__":
    main()
