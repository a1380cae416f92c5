"""Whether intervals of the flux of real galaxies cover the truth, over realizations of the noise, as a Markdown table.

    python tests/benchmarks/coverage.py --refine 1 --dtype float32 --draws 400 --number 10 --out coverage.jsonl  # hours
    python tests/benchmarks/coverage.py 000047 --prior gaussian --refine 4 --number 50
    python tests/benchmarks/coverage.py --prior starlet --positive --refine 1 --dtype float32 --draws 400 --number 10
    python tests/benchmarks/coverage.py --prior tv --method vi --number 20              # of an approximation

New noise of the file's variance is put on its noiseless model, and everything is found anew from these data. Truths are
not draws of a prior here: this tests the model, where `invprob calibrate` tests the sampler. What was done is kept in
`--out`, and is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ground_sims import DATA, REFINE, Simulation, files, head, row

DRAWS = {"gaussian": 400, "starlet": 1000, "tv": 1000, "lognormal": 2000}
LEVELS = (68, 95)
PLACES = ("mask", "total")


def blocks(image: np.ndarray, side: int) -> np.ndarray:
    """Sums over blocks of pixels."""
    ny, nx = (n // side for n in image.shape)
    return image[: ny * side, : nx * side].reshape(ny, side, nx, side).sum((1, 3))


@dataclass(frozen=True)
class Case:
    """One prior at one refinement, and how it is inferred."""

    prior: str
    positive: bool
    refine: int
    method: str
    draws: int
    dtype: str

    @property
    def name(self) -> str:
        positive = " positive" if self.positive else ""
        method = "" if self.method == "sample" else f", {self.method}"
        return f"{self.prior}{positive}{method}, refine {self.refine}, {self.draws} draws, {self.dtype}"

    def weights(self, simulation: Simulation) -> dict[str, np.ndarray]:
        """Images whose product with the latent image is a flux; the part of a latent pixel that is inside the mask."""
        side = REFINE // self.refine
        inside = blocks(simulation.inside.astype(float), side) / side**2
        return {"mask": inside, "total": np.ones_like(inside)}

    def run(self, simulation: Simulation, number: int) -> dict:
        """One realization: of each flux the truth, mean, error, and what covers it; status and seconds."""
        import invprob

        rng = np.random.default_rng([number, int(simulation.name)])
        noise = np.sqrt(simulation.variance) * rng.standard_normal(simulation.variance.shape)
        observation = invprob.read_fits(simulation.path, psf="[KERNEL]")
        observation = replace(observation, data=simulation.model + noise, variance=simulation.variance)
        config = invprob.Config.make(
            prior=self.prior, positive=self.positive, refine=self.refine, method=self.method, num_samples=self.draws,
            seed=number, dtype=self.dtype,
        )  # fmt: skip
        start = time.perf_counter()
        result = invprob.deconvolve(observation, config)
        if result.status is invprob.Status.INTERRUPTED:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - start
        truth = blocks(simulation.truth, REFINE // self.refine)
        out = {"file": simulation.name, "case": self.name, "number": number, "status": result.status.name}
        for place, weight in self.weights(simulation).items():
            true = float((weight * truth).sum())
            flux = np.tensordot(np.asarray(result.draws, float), weight, axes=2)
            covers = []
            for level in LEVELS:
                low, high = np.percentile(flux, [50 - level / 2, 50 + level / 2])
                covers.append(bool(low <= true <= high))
            out[place] = {"truth": true, "mean": float(flux.mean()), "std": float(flux.std(ddof=1)), "covers": covers}
        return {**out, "seconds": seconds}


def records(path: Path | None) -> list[dict]:
    """What was done before."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def runs(
    cases: Sequence[Case], simulations: Sequence[Simulation], number: int, path: Path | None
) -> Iterator[tuple[Case, str, list[dict]]]:
    """The realizations of each case and file, done now or before."""
    done = {(r["case"], r["file"], r["number"]): r for r in records(path)}
    for case in cases:
        for simulation in simulations:
            found = []
            for i in range(number):
                key = (case.name, simulation.name, i)
                if key not in done:
                    done[key] = case.run(simulation, i)
                    if path is not None:
                        with path.open("a") as stream:
                            stream.write(json.dumps(done[key]) + "\n")
                found.append(done[key])
            yield case, simulation.name, found


def cells(found: Sequence[dict]) -> list[object]:
    """Of each flux the fractions covered, the mean pull and the mean relative error; verdicts and seconds."""
    out: list[object] = [len(found)]
    for place in PLACES:
        each = [r[place] for r in found]
        out += [f"{100 * np.mean([r['covers'][i] for r in each]):.0f}" for i in range(len(LEVELS))]
        out.append(f"{np.mean([(r['mean'] - r['truth']) / r['std'] for r in each]):+.2f}")
        out.append(f"{100 * np.mean([r['std'] / r['truth'] for r in each]):.2f}")
    reliable = sum(r["status"] == "CONVERGED" for r in found)
    return [*out, f"{reliable}/{len(found)}", f"{np.mean([r['seconds'] for r in found]):.0f}"]


def coverage(cases: Sequence[Case], simulations: Sequence[Simulation], number: int, path: Path | None) -> None:
    """The table: each case and file, and each case over all files with what chance allows."""
    named = [f"{place}: {what}" for place in PLACES for what in ("68 %", "95 %", "pull", "error, %")]
    head("case", "file", "runs", *named, "converged", "seconds a run")
    every: dict[str, list[dict]] = {}
    for case, name, found in runs(cases, simulations, number, path):
        row(case.name, name, *cells(found))
        every.setdefault(case.name, []).extend(found)
    for name, found in every.items():
        chance = ", ".join(f"{100 * np.sqrt(p * (1 - p) / len(found)):.0f}" for p in (0.68, 0.95))
        row(name, f"all (chance: +- {chance})", *cells(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="simulations such as 000047; default: all")
    parser.add_argument("--folder", type=Path, default=DATA, help="where the simulations are")
    parser.add_argument("--prior", action="append", choices=tuple(DRAWS), help="may be repeated; default: all four")
    parser.add_argument("--positive", action="store_true", help="no pixel below the floor; not with lognormal")
    parser.add_argument("--refine", type=int, default=2, choices=(1, 2, 4), help="latent pixels on a side of a pixel")
    parser.add_argument("--method", default="sample", choices=("sample", "vi", "laplace"))
    parser.add_argument("--draws", type=int, help="draws of a run; default: by the prior")
    parser.add_argument(
        "--dtype", default="float64", choices=("float64", "float32"), help="chains are faster in float32"
    )
    parser.add_argument("--number", type=int, default=20, help="realizations of the noise")
    parser.add_argument("--out", type=Path, help="file of lines of JSON, one a run; what is in it is not done again")
    given = parser.parse_args()
    simulations = list(files(given.names, given.folder))
    if not simulations:
        parser.error(f"no simulation of that name in {given.folder}")
    cases = [
        Case(prior, given.positive, given.refine, given.method, given.draws or DRAWS[prior], given.dtype)
        for prior in given.prior or DRAWS
        if not (given.positive and prior == "lognormal")
    ]
    coverage(cases, simulations, given.number, given.out)


if __name__ == "__main__":
    main()
