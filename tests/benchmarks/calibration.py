"""What the calibration room finds: coverage of exact draws, false alarms, and the power of each control.

python -m tests.benchmarks.calibration null --cases 500           # tables of one experiment that is calibrated
python -m tests.benchmarks.calibration sparse --cases 500         # total variation and starlet, by Gibbs and HMC
python -m tests.benchmarks.calibration alarms --repeats 200       # how often something fails that is calibrated
python -m tests.benchmarks.calibration power --repeats 100        # how often each control is caught, and by what

The tables are Markdown. The world is that of the tests: a Gaussian field behind a PSF of 2.5 pixels, 16 x 16 data with
varying noise and a tenth masked, exact draws.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import jax
import numpy as np
from scipy import stats

from invprob.calibration import Calibration, PureDraw, calibrate
from invprob.calibration.results import ALPHA
from invprob.posterior import Posterior
from tests.calibration.worlds import AMPLITUDE, FWHM, DenseDraws, prior_draws, signal_to_noise, world

AMPLITUDES = (4.0, 20.0, AMPLITUDE, 1000.0)


@dataclass(frozen=True)
class Control:
    """What is wrong on purpose, and the test that is meant to notice."""

    name: str
    meant: str
    analysed: dict
    width: float = 1.0


CONTROLS = (
    Control("noise variance 1.3 too small", "residual chi-square", {"noise": 1 / 1.3}),
    Control("noise variance 1.3 too large", "residual chi-square", {"noise": 1.3}),
    Control("PSF 5 % too wide", "residual along PSF width", {"fwhm": 1.05 * FWHM}),
    Control("PSF 5 % too narrow", "residual along PSF width", {"fwhm": 0.95 * FWHM}),
    Control("error bars 10 % too small", "pixels, coverage 68 %", {}, 0.9),
    Control("error bars 10 % too large", "pixels, coverage 68 %", {}, 1.1),
)


def head(*names: str) -> None:
    """First lines of a table."""
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)


def row(*values) -> None:
    """One line of a table."""
    print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values) + " |", flush=True)


def repeated(post: Posterior, analysed: Posterior, width: float, given: argparse.Namespace) -> list[Calibration]:
    """Independent experiments."""
    draw = PureDraw(DenseDraws.of(analysed, width))
    keys = jax.random.split(jax.random.key(given.seed), given.repeats)
    sizes = {"num_cases": given.cases, "num_draws": given.draws}
    return [calibrate(post, draw, key, analysed=analysed, **sizes) for key in keys]


def null(given: argparse.Namespace) -> None:
    """One experiment that is calibrated."""
    post = world(amplitude=given.amplitude)
    key = jax.random.key(given.seed)
    draw = PureDraw(DenseDraws.of(post))
    print(calibrate(post, draw, key, num_cases=given.cases, num_draws=given.draws).markdown())


def sparse(given: argparse.Namespace) -> None:
    """Sparse priors, truths drawn from the prior itself: what decides, for each prior and sampler."""
    from invprob.sampling.samplers import HMC, ScaleMixture
    from tests.calibration.test_samplers import experiment

    head(
        "prior", "sampler", "pixels, 68 %", "pixels, 95 %", "least p after Holm", "TARP p", "chi-square p", "caught by"
    )
    for prior in given.priors:
        for sampler, thin in ((ScaleMixture(num_warmup=30), 4), (HMC(num_warmup=150), 8)):
            if sampler.name not in given.samplers:
                continue
            found = experiment(prior, sampler, given.cases, given.seed, thin=thin)
            covers = [found.coverage("pixels", level) for level in (0.68, 0.95)]
            row(
                prior, sampler.name, *(f"{100 * c.value:.1f} +- {100 * c.error:.1f} %" for c in covers),
                min(c.corrected for c in found.checks), found.check("TARP").p_value,
                found.check("residual chi-square").p_value, ", ".join(found.caught_by) or "-",
            )  # fmt: skip


def alarms(given: argparse.Namespace) -> None:
    """Part of the experiments in which a test fails although all is calibrated, and the p-values of each test."""
    post = world(amplitude=given.amplitude)
    found = repeated(post, post, 1.0, given)
    failed = sum(not c.passed for c in found)
    print(f"{failed} of {len(found)} experiments failed a test ({100 * ALPHA:g} % at most are expected)\n")
    head("test", "p <= 0.01", "p <= 0.05", "p <= 0.5", "p of a KS test of them all")
    for check in found[0].checks:
        p = np.array([c.check(check.name).p_value for c in found])
        row(check.name, *(float(np.mean(p <= a)) for a in (0.01, 0.05, 0.5)), float(stats.kstest(p, "uniform").pvalue))
    pixels = 100 * np.array([c.coverage("pixels", 0.68).value for c in found])
    print(f"\nPixel coverage at 68 %: {pixels.mean():.2f} %, from {pixels.min():.1f} to {pixels.max():.1f} %")


def power(given: argparse.Namespace) -> None:
    """How often each control is caught."""
    names = ("control", "S/N of a pixel", "meant to notice", "its value", "scatter", "power", "first named", "any test")
    head(*names)
    for control in CONTROLS:
        for amplitude in given.amplitudes:
            post = world(amplitude=amplitude)
            analysed = world(amplitude=amplitude, **control.analysed)
            found = repeated(post, analysed, control.width, given)
            checks = [c.check(control.meant) for c in found]
            values = np.array([check.statistic for check in checks])
            row(
                control.name, f"{signal_to_noise(post):.2g}", control.meant, float(values.mean()), float(values.std()),
                float(np.mean([not check.passed for check in checks])),
                float(np.mean([c.caught_by[:1] == (control.meant,) for c in found])),
                float(np.mean([not c.passed for c in found])),
            )  # fmt: skip
    post = world(amplitude=given.amplitude)
    found = calibrate(post, PureDraw(prior_draws), jax.random.key(0), num_cases=given.cases, num_draws=given.draws)
    print(f"\nDraws of the prior, whatever the data: caught by {', '.join(found.caught_by)}")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("null", "sparse", "alarms", "power"))
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--draws", type=int, default=99)
    parser.add_argument("--repeats", type=int, default=100, help="experiments of `alarms`, and for each row of `power`")
    parser.add_argument("--amplitude", type=float, default=AMPLITUDE, help="of the prior, for `null` and `alarms`")
    parser.add_argument("--amplitudes", type=float, nargs="+", default=AMPLITUDES, help="of the prior, for `power`")
    parser.add_argument("--priors", nargs="+", default=("tv", "starlet"), help="of `sparse`")
    parser.add_argument("--samplers", nargs="+", default=("gibbs", "hmc"), help="of `sparse`")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    {"null": null, "sparse": sparse, "alarms": alarms, "power": power}[given.what](given)


if __name__ == "__main__":
    main()
