"""Time the sparse solves (TV with positivity, O2, and starlet with positivity, O3) beside their peer, in one run.

    taskset -c 1 python tests/benchmarks/sparse.py --arrays FOLDER --shared ../shared/benchmarks --peer-python PYTHON

The folder holds the arrays that ``workload.py`` of the common benchmarks makes; its evaluator judges every image in
float64. The peer (an environment with scico) runs before and after in processes of its own: ADMM for O2, primal-dual
steps for O3. Times are process CPU seconds of a whole `find_map` up to a number of steps, its set-up included and
compilation left out; the steps are the fewest, in whole rounds, that reach the gap. What counts are the ratios.
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
from invprob.optimize import loop
from invprob.optimize.solvers import ADMM
from invprob.optimize.solvers.admm import ROUND

REPEATS = 5
NEVER = 1e-12  # a residual that float32 does not reach: the steps are what is asked for
PEER = {"O2": ("--solver", "admm"), "O3": ()}
PEER_STEPS = {("O2", 256): "2300", ("O2", 1024): "90", ("O3", 256): "600"}
TARGETS = {("O2", 256): (1e-3, 1e-5), ("O2", 1024): (1e-3,), ("O3", 256): (1e-3,)}


def f32(array):
    return jnp.asarray(array, jnp.float32)


def posterior(problem, task: str, evaluate) -> ip.Posterior:
    """O2 or O3 through the public API: its own strength, boundaries and positivity."""
    shape = problem.shape
    forward = ip.operators.Convolve(f32(problem.psf), shape, problem.frame)
    ivar = problem.ivar[problem.frame]
    valid = ivar > 0
    noise = ip.Diagonal(f32(1 / np.where(valid, ivar, 1)))
    likelihood = ip.likelihoods.Gaussian(forward, f32(problem.data[problem.frame]), noise, jnp.asarray(valid))
    if task == "O2":
        prior = ip.priors.TotalVariation(shape, f32(evaluate.TV_STRENGTH))
    else:
        prior = ip.priors.StarletSparsity(shape, f32(evaluate.STARLET_STRENGTH), evaluate.SCALES)
    return ip.Posterior(likelihood, ip.priors.Positive(prior))


def peer(options, task: str, size: int) -> dict:
    """The peer's JSON line."""
    environment = {**os.environ, "PYTHONPATH": str(options.shared), "INVPROB_BENCH": str(options.arrays)}
    arguments = ["--task", task, "--size", str(size), "--iterations", PEER_STEPS[task, size], *PEER[task]]
    with tempfile.TemporaryDirectory() as folder:
        lines = subprocess.run(
            [options.peer_python, "-m", "peers.scico_map", *arguments],
            cwd=folder, env=environment, check=True, capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip
    return json.loads(lines[-1])


FIRST = """
import time
import evaluate, peers.scico_map as m
problem = evaluate.load({size})
start = time.process_time()
solver = m.admm_tv(problem) if "{task}" == "O2" else m.pdhg_starlet(problem)
solver.maxiter = 10
solver.solve()
print(time.process_time() - start)
"""


STAMPS = """
import json, time
import numpy as np
import evaluate, peers.scico_map as m
stamps = evaluate.load_stamps({number})
def solve(problem):
    solver = m.admm_tv(problem)
    solver.maxiter = {steps}
    solver.solve()
    return np.array(solver.z_list[2], float)
solve(stamps[0])
start = time.process_time()
images = [solve(stamp) for stamp in stamps]
seconds = time.process_time() - start
print(json.dumps([seconds, [float(evaluate.f2(p, x)) for p, x in zip(stamps, images)]]))
"""


def in_peer(options, code: str) -> str:
    """Last line of what a program prints in the peer's environment."""
    environment = {**os.environ, "PYTHONPATH": str(options.shared), "INVPROB_BENCH": str(options.arrays)}
    run = [options.peer_python, "-c", code]
    return subprocess.run(run, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def peer_first(options, task: str, size: int) -> float:
    """Seconds of the peer's first ten steps, compilation included."""
    return float(in_peer(options, FIRST.format(task=task, size=size)))


def bytes_per_pixel(post: ip.Posterior, pixels: int) -> float:
    """Memory of a compiled chunk of steps (arguments, results and temporaries) per latent pixel."""
    solver = ADMM()
    problem, state = loop._start(solver, post, None)
    compiled = loop._advance.lower(solver, problem, state, jnp.asarray(ROUND)).compile()
    found = compiled.compiled.memory_analysis()
    return (found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes) / pixels


def fewest(gap, run, target: float) -> int:
    """Steps, in rounds, at which the gap first lies below the target."""
    low, high = 0, ROUND
    while gap(run(high)) > target:
        low, high = high, 2 * high
    while high - low > ROUND:
        middle = (low + high) // (2 * ROUND) * ROUND
        low, high = (low, middle) if gap(run(middle)) <= target else (middle, high)
    return high


def cpu(call) -> float:
    """Least CPU seconds of a few calls."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def rows(options, evaluate, task: str, size: int) -> None:
    """Rows of one scene."""
    problem = evaluate.load(size, options.arrays)
    gap = evaluate.gap_function(problem, task)
    before = peer(options, task, size) if options.peer_python else None
    post = posterior(problem, task, evaluate)

    def run(steps: int):
        return np.asarray(ip.find_map(post, ADMM(rtol=NEVER), max_steps=steps).x, float)

    start = time.process_time()
    run(ROUND)
    first = time.process_time() - start
    found = []
    for target in TARGETS[task, size]:
        steps = fewest(gap, run, target)
        result = ip.find_map(post, ADMM(rtol=NEVER), max_steps=steps)
        seconds = cpu(lambda steps=steps: run(steps))
        found.append((target, steps, gap(np.asarray(result.x, float)), result.report.gap, seconds))
    after = peer(options, task, size) if options.peer_python else None
    fft = evaluate.fft_pair_ms(problem.grid)
    for target, steps, reached, residual, seconds in found:
        ratio, theirs = "-", "-"
        if before is not None and after is not None:
            name = {1e-3: "1e-3", 1e-5: "1e-5"}[target]
            known = [p[name] for p in (before, after) if p[name] is not None]
            if known:
                theirs = f"{known[0]['iteration']}"
                ratio = f"{np.mean([k['cpu'] for k in known]) / seconds:.1f}"
        cells = [
            task, str(size), f"{target:g}", str(steps), f"{reached:.1e}", f"{residual:.1e}",
            f"{1e3 * seconds / steps / fft:.1f}", theirs, ratio,
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)
    memory = bytes_per_pixel(post, problem.grid**2)
    theirs = f", peer {peer_first(options, task, size):.1f} s" if options.peer_python else ""
    print(f"  first call, {ROUND} steps and all compilation: {first:.1f} s{theirs}; {memory:.0f} bytes a latent pixel")


def stamps(options, evaluate) -> None:
    """TV with positivity for the stamps of W2, one compiled batch, each with its own PSF and its own stop."""
    problems = evaluate.load_stamps(options.stamps, options.arrays)
    posts = jax.tree.map(lambda *a: jnp.stack(a), *[posterior(p, "O2", evaluate) for p in problems])
    exact = ip.optimize.solve_many(posts, ADMM(rtol=2e-6), max_steps=20_000)
    best = np.array([evaluate.f2(p, x) for p, x in zip(problems, np.asarray(exact.x, float), strict=True)])
    print("\n| run | mean steps | median gap | largest gap | stamps/s |\n|---|---|---|---|---|")
    for rtol in (3e-3, 1e-3, 3e-4):
        solver = ADMM(rtol=rtol)
        solution = ip.optimize.solve_many(posts, solver)
        seconds = cpu(lambda solver=solver: np.asarray(ip.optimize.solve_many(posts, solver).x))
        values = np.array([evaluate.f2(p, x) for p, x in zip(problems, np.asarray(solution.x, float), strict=True)])
        gaps = (values - best) / best
        cells = [
            f"invprob, rtol {rtol:g}",
            f"{np.mean(solution.steps):.0f}",
            f"{np.median(gaps):.1e}",
            f"{gaps.max():.1e}",
        ]
        print("| " + " | ".join([*cells, f"{len(problems) / seconds:.0f}"]) + " |", flush=True)
    if options.peer_python:
        for steps in (80, 150):
            count = min(len(problems), 16)
            seconds, values = json.loads(in_peer(options, STAMPS.format(number=count, steps=steps)))
            gaps = np.array(values) / best[:count] - 1
            cells = ["scico ADMM, one by one", str(steps), f"{np.median(gaps):.1e}", f"{gaps.max():.1e}"]
            print("| " + " | ".join([*cells, f"{count / seconds:.1f}"]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrays", type=Path, required=True, help="folder of scene_*.npz and stamps.npz")
    parser.add_argument("--shared", type=Path, default=Path("../shared/benchmarks"), help="the common benchmarks")
    parser.add_argument("--peer-python", help="Python of an environment with scico; default: no peer")
    parser.add_argument("--tasks", nargs="*", default=["O2:256", "O3:256", "O2:1024"], help="TASK:SIZE")
    parser.add_argument("--stamps", type=int, default=64, help="number of stamps, 0 for none")
    options = parser.parse_args()
    options.shared, options.arrays = options.shared.resolve(), options.arrays.resolve()
    sys.path.insert(0, str(options.shared))
    import evaluate

    print(f"jax {jax.__version__}, equinox {eqx.__version__}, {jax.devices()[0].platform}\n")
    heads = "task, size, gap asked, steps, gap, residual, FFT pairs a step, peer's steps, peer / invprob"
    print("| " + " | ".join(heads.split(", ")) + " |\n" + "|---" * 9 + "|")
    for name in options.tasks:
        task, size = name.split(":")
        rows(options, evaluate, task, int(size))
    if options.stamps:
        stamps(options, evaluate)


if __name__ == "__main__":
    main()
