"""How well the ground simulations are deconvolved: scores, evidence, flux and errors, as Markdown tables.

    python tests/benchmarks/ground_sims.py scores             # the eight files by the command line
    python tests/benchmarks/ground_sims.py evidence           # the strengths found against a dense grid; minutes
    python tests/benchmarks/ground_sims.py whittle            # what the evidence of large images loses on small ones
    python tests/benchmarks/ground_sims.py flux --number 50   # pulls of the flux over noise realizations; minutes
    python tests/benchmarks/ground_sims.py flux --snr 1000 --number 10 --paired

The simulations are real Hubble galaxies seen from the ground; each file holds its truth, its kernel and the mask inside
which it is scored.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.optimize
from astropy.io import fits
from scipy.fft import next_fast_len

REFINE = 4
POWER_FLOOR = 1e-10  # of the amplitude, part of the model's definition
DATA = Path(__file__).parents[3] / "shared" / "data" / "ground_sims"
SCALES = tuple(np.geomspace(0.002, 1.0, 25))
SLOPES = tuple(np.geomspace(0.5, 30.0, 20))


@dataclass(frozen=True)
class Simulation:
    """The arrays of one file."""

    path: Path
    data: np.ndarray
    variance: np.ndarray
    model: np.ndarray
    truth: np.ndarray
    kernel: np.ndarray
    inside: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Simulation:
        with fits.open(path) as file:
            names = ("SCI", "VAR", "MODEL", "TRUTH", "KERNEL")
            arrays = [np.asarray(file[name].data, float) for name in names]
            return cls(path, *arrays, inside=np.asarray(file["EVALMASK"].data) > 0)

    @property
    def name(self) -> str:
        return self.path.stem.removeprefix("ground_")

    @property
    def snr(self) -> float:
        """Matched-filter signal to noise of the whole object."""
        return float(np.sqrt(np.sum(self.model**2 / self.variance)))

    def relative_error(self, image: np.ndarray) -> float:
        """Root mean square error over that of the truth, inside the mask."""
        return float(np.linalg.norm((image - self.truth)[self.inside]) / np.linalg.norm(self.truth[self.inside]))

    def flux_error(self, image: np.ndarray) -> float:
        """Relative error of the flux inside the mask."""
        return float(image[self.inside].sum() / self.truth[self.inside].sum() - 1)


class DenseEvidence:
    """Log-evidence of a simulation by a dense matrix, written without the package.

    The covariance of two noiseless data is that of two blocks of latent pixels at their lag: the transform of the
    prior's spectrum times the squared transfer functions of kernel and block, on a periodic grid that holds what the
    data see.

    Parameters
    ----------
    simulation
        Data, variance and kernel.
    side
        Latent pixels on a side of the periodic grid; default: data and kernel's reach, to a size that is fast.
    """

    def __init__(self, simulation: Simulation, side: int | None = None):
        ny, nx = simulation.data.shape
        reach = max(ny, nx) * REFINE + simulation.kernel.shape[0] - 1
        n = 2 * int(next_fast_len(-(-reach // 2), real=True)) if side is None else side
        kernel = np.zeros((n, n))
        kernel[: simulation.kernel.shape[0], : simulation.kernel.shape[1]] = simulation.kernel
        block = np.fft.fft(np.arange(n) < REFINE)
        self.response = np.abs(np.fft.fft2(kernel) * np.outer(block, block)) ** 2
        self.k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n))
        y, x = np.mgrid[:ny, :nx].reshape(2, -1) * REFINE
        self.lags = (y[:, None] - y) % n * n + (x[:, None] - x) % n
        self.y, self.variance = simulation.data.ravel(), simulation.variance.ravel()

    def covariances(self, scale: float, slope: float) -> np.ndarray:
        """Covariance of two noiseless data by their lag in latent pixels, for an amplitude of one."""
        law = np.exp(-0.5 * slope * np.log1p((self.k / scale) ** 2))
        return np.fft.ifft2(np.maximum(law, POWER_FLOOR) * self.response).real.ravel()

    def _value(self, covariances: np.ndarray, amplitude: float) -> float:
        matrix = (amplitude * covariances)[self.lags]
        matrix[np.diag_indices_from(matrix)] += self.variance
        factor = scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
        z = scipy.linalg.solve_triangular(factor, self.y, lower=True, check_finite=False)
        return float(-0.5 * z @ z - np.log(np.diag(factor)).sum() - 0.5 * len(z) * np.log(2 * np.pi))

    def __call__(self, amplitude: float, scale: float, slope: float) -> float:
        return self._value(self.covariances(scale, slope), amplitude)

    def best_amplitude(self, scale: float, slope: float, ratio: float | None = None) -> tuple[float, float]:
        """Largest log-evidence over the amplitude, and the variance of a noiseless datum there.

        Parameters
        ----------
        scale, slope
            Of the spectrum.
        ratio
            Guess of that variance.
        """
        covariances = self.covariances(scale, slope)
        if ratio is None:
            ratio = max(float(self.y.var() - self.variance.mean()), 0.1 * float(self.variance.mean()))
        first = float(np.log(ratio / covariances[0]))

        def negative(log_amplitude: float) -> float:
            return -self._value(covariances, float(np.exp(log_amplitude)))

        found = scipy.optimize.minimize_scalar(negative, bracket=(first - 0.4, first + 0.4), tol=3e-3)
        return -float(found.fun), float(np.exp(found.x) * covariances[0])

    def grid(self, scales: Sequence[float] = SCALES, slopes: Sequence[float] = SLOPES) -> np.ndarray:
        """`best_amplitude` at each scale (row) and slope; minus infinity where the matrix is not positive definite."""
        out, ratio = np.full((len(scales), len(slopes)), -np.inf), None
        for i, scale in enumerate(scales):
            for j in range(len(slopes))[:: -1 if i % 2 else 1]:
                try:
                    out[i, j], ratio = self.best_amplitude(scale, slopes[j], ratio)
                except np.linalg.LinAlgError:
                    continue
        return out

    def maximum(self, scale: float, slope: float) -> float:
        """The largest log-evidence near a scale and slope, with no bounds but a slope of 200."""

        def negative(point: np.ndarray) -> float:
            if point[1] > np.log(200.0):
                return np.inf
            return -self.best_amplitude(*np.exp(point))[0]

        start = np.log([scale, slope])
        simplex = start + np.array([[0, 0], [0.1, 0], [0, 0.2]])
        options = {"initial_simplex": simplex, "xatol": 0.02, "fatol": 0.01, "maxfev": 60}
        return -float(scipy.optimize.minimize(negative, start, method="Nelder-Mead", options=options).fun)


def files(names: Sequence[str], folder: Path = DATA) -> Iterator[Simulation]:
    """The simulations of given names, or all."""
    for path in sorted(folder.glob("ground_*.fits")):
        simulation = Simulation.read(path)
        if not names or simulation.name in names:
            yield simulation


def realizations(
    simulation: Simulation,
    number: int,
    *,
    snr: float | None = None,
    draws: int = 32,
    paired: bool = False,
    seed: int = 0,
    **changes: object,
) -> np.ndarray:
    """Flux and its error from the whole pipeline, for new noise on the noiseless data.

    Parameters
    ----------
    simulation
        What is observed.
    number
        Realizations of the noise.
    snr
        Signal to noise ratio of the object; default: that of the file.
    draws
        Draws behind each error.
    paired
        Take each noise with both signs, so that it cancels from the mean of the flux and its bias is left.
    seed
        Of the noise.
    changes
        Further fields of the configuration.

    Returns
    -------
    Array of shape ``(number, 2)``.
    """
    import invprob

    variance = simulation.variance * (1.0 if snr is None else (simulation.snr / snr) ** 2)
    observation = invprob.read_fits(simulation.path, psf="[KERNEL]")
    config = invprob.Config.make(refine=REFINE, num_samples=draws, **changes)
    rng = np.random.default_rng(seed)
    out = []
    noise = np.zeros(variance.shape)
    for i in range(number):
        noise = -noise if paired and i % 2 else np.sqrt(variance) * rng.standard_normal(variance.shape)
        data = simulation.model + noise
        result = invprob.deconvolve(replace(observation, data=data, variance=variance), config)
        out.append([result.report.flux, result.report.get("flux_std", np.nan)])
    return np.array(out)


def by_command(simulation: Simulation, out: Path) -> float:
    """Deconvolve by the command line with nothing set by hand; seconds it took."""
    start = time.perf_counter()
    command = [str(Path(sys.executable).with_name("invprob")), "deconvolve", str(simulation.path), "--psf", "[KERNEL]"]
    command += ["--refine", str(REFINE), "-o", str(out), "--overwrite", "--quiet"]
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def row(*cells: object) -> None:
    print("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def head(*cells: str) -> None:
    row(*cells)
    row(*["---"] * len(cells))


def scores(simulations: Sequence[Simulation], out: Path) -> None:
    """Error, chi-square and flux of each, from the files that the command line wrote."""
    head(
        "file", "relerr", "chi2/edof", "flux / truth - 1", "pull", "within 1 std", "in mask", "amplitude", "scale",
        "slope", "log evidence", "seconds",
    )  # fmt: skip
    table = []
    for simulation in simulations:
        seconds = by_command(simulation, out / simulation.path.name)
        with fits.open(out / simulation.path.name) as file:
            image, std = (np.asarray(file[name].data, float) for name in ("SCI", "ERR"))
            cards = {k: v for part in file for k, v in part.header.items()}
        error = image - simulation.truth
        within = np.abs(error) < std
        table.append((
            simulation.relative_error(image), cards["CHI2EDOF"], error.sum() / simulation.truth.sum(),
            error.sum() / cards["FLUXERR"], within.mean(), within[simulation.inside].mean(),
            *(cards[name] for name in ("PRIORAMP", "PRIORSCL", "PRIORSLP", "LOGEVID")), seconds,
        ))  # fmt: skip
        row(simulation.name, *(float(value) for value in table[-1]))
    row("median", *(float(value) for value in np.median(table, axis=0)))


def evidence(simulations: Sequence[Simulation]) -> None:
    """What the strengths found lose against the maximum of a dense grid, and of a search from its best point."""
    import invprob

    head("file", "LOGEVID", "dense there", "grid's maximum", "at scale", "slope", "lost", "lost to the peak", "seconds")
    for simulation in simulations:
        observation = invprob.read_fits(simulation.path, psf="[KERNEL]")
        start = time.perf_counter()
        result = invprob.deconvolve(observation, invprob.Config.make(refine=REFINE, num_samples=0))
        seconds = time.perf_counter() - start
        dense = DenseEvidence(simulation)
        here = dense(*(result.report.get(name) for name in ("prior_amplitude", "prior_break", "prior_slope")))
        values = dense.grid()
        i, j = np.unravel_index(np.argmax(values), values.shape)
        peak = dense.maximum(SCALES[i], SLOPES[j])
        top = float(values.max())
        row(
            simulation.name, f"{result.report.log_evidence:.3f}", f"{here:.3f}", f"{top:.3f}", float(SCALES[i]),
            float(SLOPES[j]), f"{top - here:.3f}", f"{peak - here:.3f}", seconds,
        )  # fmt: skip


def whittle(simulations: Sequence[Simulation]) -> None:
    """What the evidence of large images loses on images small enough for the exact one."""
    import jax

    import invprob as ip
    from invprob.pipeline.problem import build_problem

    head("file", "exact maximum", "exact evidence at Whittle's maximum less that")
    for simulation in simulations:
        observation = ip.read_fits(simulation.path, psf="[KERNEL]")
        with jax.enable_x64(True):
            problem = build_problem(observation, ip.Config(refine=REFINE))
            hierarchy = ip.field_hierarchy(problem.likelihood, problem.shape)
            exact = ip.maximize_evidence(hierarchy).log_evidence
            rough = ip.maximize_evidence(hierarchy, exact_limit=0).theta
            row(simulation.name, exact, ip.evidence.log_evidence(hierarchy.build(rough)) - exact)


def flux(simulations: Sequence[Simulation], number: int, snr: float | None, draws: int, paired: bool) -> None:
    """Mean pull of the stamp's flux over realizations of the noise, in its standard errors, and the bias."""
    head("file", "S/N", "mean flux / truth - 1", "mean pull", "its standard errors", "scatter", "seconds a run")
    for simulation in simulations:
        truth, start = simulation.truth.sum(), time.perf_counter()
        found = realizations(simulation, number, snr=snr, draws=draws, paired=paired)
        seconds = (time.perf_counter() - start) / number
        pulls = (found[:, 0] - truth) / found[:, 1]
        scatter = float(pulls.std(ddof=1))
        row(
            simulation.name, simulation.snr if snr is None else snr, float(found[:, 0].mean() / truth - 1),
            float(pulls.mean()),
            np.nan if paired else float(pulls.mean() / scatter * np.sqrt(number)), scatter, seconds,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("scores", "evidence", "whittle", "flux"))
    parser.add_argument("names", nargs="*", help="simulations such as 000047; default: all")
    parser.add_argument("--folder", type=Path, default=DATA, help="where the simulations are")
    parser.add_argument("--out", type=Path, help="keep the outputs of `scores` here")
    parser.add_argument("--number", type=int, default=50, help="realizations of the noise")
    parser.add_argument("--snr", type=float, help="signal to noise ratio; default: the file's")
    parser.add_argument("--draws", type=int, default=32, help="draws behind each error of `flux`")
    parser.add_argument("--paired", action="store_true", help="each noise with both signs: shows the bias of `flux`")
    given = parser.parse_args()
    simulations = list(files(given.names, given.folder))
    if not simulations:
        parser.error(f"no simulation of that name in {given.folder}")
    if given.what == "scores":
        with tempfile.TemporaryDirectory() as scratch:
            out = given.out or Path(scratch)
            os.makedirs(out, exist_ok=True)
            scores(simulations, out)
    elif given.what == "evidence":
        evidence(simulations)
    elif given.what == "whittle":
        whittle(simulations)
    else:
        flux(simulations, given.number, given.snr, given.draws, given.paired)


if __name__ == "__main__":
    main()
