"""deepinv's SK-ROCK on the total variation posterior of the 64-pixel scene: a peer of `samplers.py`.

    python tests/benchmarks/peers_skrock.py --prior moreau --smoothing 5 --stages 15 --iterations 2000

Runs in an environment with deepinv and torch, with the folder of the common benchmarks on ``PYTHONPATH`` and their
arrays in ``INVPROB_BENCH``. The last line is one of JSON: effective sample sizes of the test pixels, CPU seconds, and,
with ``--reference`` (an npz with ``mean`` and ``sd`` of those pixels), the errors.

The posterior is ``exp(-1/2 sum w (Hx - y)^2 - strength TV(x))`` with the isotropic, periodic TV. deepinv's `TVPrior`
has free boundaries, so its differences are replaced by periodic ones; its likelihood has no variance of each pixel, so
the square root is folded into the operator. SK-ROCK takes a gradient, which TV lacks at its kinks:

* ``moreau``: the gradient of the Moreau-Yosida envelope, ``(x - prox(x)) / smoothing``, by deepinv's own proximal map
  (Pereyra, Vargas Mieles & Zygalakis 2020, SIAM J. Imaging Sci. 13, 905, who take a smoothing near the inverse of the
  likelihood's Lipschitz constant, here 1);
* ``huber``: the vectors' lengths d replaced by ``sqrt(d^2 + (strength smoothing)^2)``, an envelope of the same width
  without an inner loop;
* ``subgradient``: `TVPrior` as it comes, which has no Lipschitz constant; ``smoothing`` then only sets the step.
"""

import peers.torchvision_cpu  # noqa: F401  isort: skip
import argparse
import json
import time
import warnings

import deepinv
import evaluate as ev
import numpy as np
import torch
from deepinv.sampling import SKRock
from peers.deepinv_map import WeightedBlur, gradient, gradient_adjoint, tensor

ETA = 0.05  # damping of the stages, as the paper has it


class PeriodicTV(deepinv.optim.TVPrior):
    """Total variation on a periodic grid, times a strength, smoothed or not."""

    def __init__(self, options):
        super().__init__(def_crit=options.tolerance, n_it_max=options.inner)
        self.TVModel.tau = options.tau
        self.TVModel.nabla, self.TVModel.nabla_adjoint = gradient, gradient_adjoint
        self.kind, self.smoothing, self.strength = options.prior, options.smoothing, options.strength

    def grad(self, x, *_, **__):
        if self.kind == "moreau":
            return (x - self.prox(x, gamma=self.smoothing * self.strength)) / self.smoothing
        if self.kind == "subgradient":
            return self.strength * super().grad(x)
        u = gradient(x)
        length = torch.sqrt(torch.sum(u**2, -1, keepdim=True) + (self.strength * self.smoothing) ** 2)
        return self.strength * gradient_adjoint(u / length)


def lipschitz(problem, options) -> float:
    """Of the gradient of the smoothed posterior."""
    data = float(problem.ivar.max() * np.max(np.abs(problem.otf)) ** 2)
    # a vector of differences has at most 8 times the squared length of the image
    return data + {"moreau": 1, "huber": 8, "subgradient": 1}[options.prior] / options.smoothing


def draw(problem, options):
    """Draws of the test pixels, and CPU seconds without and of the burn-in."""
    stable = (options.stages - 0.5) ** 2 * (2 - 4 / 3 * ETA) - 1.5
    pixels, kept, times = ev.test_pixels(problem), [], []
    sampler = SKRock(
        PeriodicTV(options), deepinv.optim.L2(), step_size=options.step * stable / lipschitz(problem, options),
        inner_iter=options.stages, eta=ETA, max_iter=options.iterations, burnin_ratio=options.burn_in, thinning=1,
        clip=(-1e6, 1e6), save_chain=False, thresh_conv=0.0, sigma=1.0, alpha=1.0,
    )  # fmt: skip

    def keep(X, **_):
        kept.append(X["x"][0, 0].numpy()[pixels])
        times.append(time.process_time())

    sampler.callback = keep
    physics = WeightedBlur(problem)
    data = tensor(problem.data)
    begun = time.process_time()
    sampler(physics.root * data, physics, x_init=physics.blur.A_adjoint(data), seed=options.seed)
    ended = time.process_time()
    each = (times[-1] - times[0]) / (len(times) - 1)
    burnt = times[0] - each - begun
    return np.stack(kept), ended - begun - burnt, burnt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="moreau", choices=("moreau", "huber", "subgradient"))
    parser.add_argument("--strength", type=float, default=ev.TV_STRENGTH)
    parser.add_argument("--smoothing", type=float, default=1.0, help="parameter of the Moreau-Yosida envelope")
    parser.add_argument("--stages", type=int, default=15)
    parser.add_argument("--step", type=float, default=0.8, help="as a fraction of the largest stable one")
    parser.add_argument("--inner", type=int, default=10, help="most iterations of deepinv's proximal map of TV")
    parser.add_argument("--tau", type=float, default=0.1, help="step of the proximal map of TV")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="where the proximal map stops")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--burn-in", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", help="npz with mean and sd of the test pixels")
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    problem = ev.load(64)
    draws, cpu, burnt = draw(problem, options)
    draws = draws.astype(float)
    effective, squares = ev.effective_samples(draws), ev.effective_samples((draws - draws.mean(0)) ** 2)
    out = dict(
        draws=len(draws), cpu=cpu, burn_in_cpu=burnt, ess_median=np.median(effective), ess_min=effective.min(),
        ess_of_squares=np.median(squares),
        stages=options.stages, prior=options.prior, smoothing=options.smoothing, step=options.step,
    )  # fmt: skip
    if options.reference:
        with np.load(options.reference) as z:
            mean, sd = z["mean"], z["sd"]
        ratio = draws.std(0) / sd
        out |= dict(
            sd_bias=np.mean(ratio) - 1,
            sd_rms_error=np.sqrt(np.mean((ratio - 1) ** 2)),
            mean_rms_error_in_sd=np.sqrt(np.mean(((draws.mean(0) - mean) / sd) ** 2)),
        )
    print(json.dumps(out, default=float))


if __name__ == "__main__":
    main()
