"""Whether two versions of the package give the same numbers, bit for bit.

    python -m tests.benchmarks.unchanged record BEFORE    # with the one version installed
    python -m tests.benchmarks.unchanged record AFTER     # with the other, on the same machine
    python -m tests.benchmarks.unchanged compare BEFORE AFTER

The runs take each prior and each method once, with a fitted sky, a finer grid, a mask, several stamps, a measured
table and a calibration card, on ``data/ground.fits`` and on a simulated pair of 24 x 24 pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

ROOT = Path(__file__).parents[2]
GROUND = str(ROOT / "data" / "ground.fits")
PAIR = "ground.fits"  # made in the folder of the runs
FEW = ["--method", "sample", "--num-samples", "100", "--num-chains", "2", "--num-warmup", "50"]
# options that had another name in an earlier version
OLDER = {"--num-chains": "--chains", "--compare-prior": "--swap"}

RUNS: dict[str, list[str]] = {
    "gaussian": [GROUND, "--refine", "2"],
    "gaussian, sky, draws": [PAIR, "--refine", "2", "--sky", "fit", "--method", "sample", "--num-samples", "64",
                             "--intervals", "68,95"],
    "gaussian, sampled strength": [PAIR, *FEW, "--strength", "sample", "--noise-scale", "sample",
                                   "--psf-error", "0.05"],
    "starlet, positive, compared": [PAIR, "--refine", "2", "--prior", "starlet", "--positive",
                                    "--compare-prior", "gaussian", *FEW],
    "starlet, best image": [PAIR, "--refine", "2", "--prior", "starlet", "--sky", "fit"],
    "tv, draws": [PAIR, "--prior", "tv", *FEW, "--intervals", "68"],
    "wavelet, fission, mask": [PAIR, "--prior", "wavelet", "--strength", "fission", "--mask", "mask.fits"],
    "laplace": [PAIR, "--prior", "laplace", "--positive", "--refine", "2"],
    "lognormal, draws": [PAIR, "--prior", "lognormal", *FEW],
    "points and starlet": [PAIR, "--prior", "points+starlet", "--refine", "2"],
    "galaxies": [PAIR, "--psf", f"{PAIR}[KERNEL]", "--prior", "galaxies", "--refine", "4"],
    "galaxies, draws": [PAIR, "--psf", f"{PAIR}[KERNEL]", "--prior", "galaxies", "--refine", "4", "--method", "sample",
                        "--num-samples", "8", "--num-chains", "2", "--num-warmup", "4"],
    "variational": [PAIR, "--prior", "starlet", "--method", "vi", "--num-samples", "200", "--max-steps", "60"],
    "laplace approximation": [PAIR, "--prior", "lognormal", "--method", "laplace", "--num-samples", "100"],
    "denoised, float32": [PAIR, "--psf", "none", "--dtype", "float32", "--prior", "tv", "--strength", "2.0"],
}  # fmt: skip

STAMPS = """
import sys
from dataclasses import replace
import numpy as np
import invprob as ip
obs = ip.read_fits(sys.argv[1])
others = [replace(obs, data=np.where(obs.valid, obs.data * f, obs.data)) for f in (1.0, 1.1, 0.7)]
for i, found in enumerate(ip.deconvolve_many(others, ip.Config.make(refine=2))):
    ip.write_fits(found, f"stamp{i}.fits", observation=others[i], overwrite=True)
"""
CALIBRATED = """prior = "gaussian"
method = "sample"
amplitude = 1e4
scale = 0.04
slope = 3.0
[input]
image = "ground.fits"
"""
# cards whose value tells of a version, a file's place or a time
PASSING = ("VERSION", "VER", "DATE", "CHECKSUM", "DATASUM", "CONFHASH", "CONFIG", "INFILE", "DEVICE", "HISTORY")
CARDS = {
    "GATE": "CONVCHK", "FIT": "FITPVAL", "FITSTRU": "FITMATCH", "FISSION": "HELDPVAL", "FISSCHI2": "HELDCHI2",
    "FISSSTRU": "HELDMTCH", "PRIORUNI": "FLUXSCAL", "SWAPRMS": "CMPRMS", "SWAPMAX": "CMPMAX",
}  # fmt: skip
RENAMED = {"EVIDENCE": "CONTRACTION", "EVIDENCE_STARLET": "CONTRACTION_STARLET", "SWAP": "COMPARED"}


def _command(*arguments: str, older: bool) -> None:
    words = [OLDER.get(word, word) if older else word for word in arguments]
    done = subprocess.run([sys.executable, "-m", "invprob.cli", *words], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 70):
        raise SystemExit(f"{' '.join(words)}: {done.returncode}\n{done.stderr}")


def record(folder: Path) -> None:
    """Make all runs in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    shown = subprocess.run(
        [sys.executable, "-m", "invprob.cli", "deconvolve", "--help"], capture_output=True, text=True
    )
    older = "--num-chains" not in shown.stdout
    _command("simulate", "-o", ".", "--seed", "3", "--size", "24", "--overwrite", older=older)
    mask = np.zeros((24, 24), np.int16)
    mask[3:6, 4:9] = 1
    fits.PrimaryHDU(mask).writeto("mask.fits", overwrite=True)
    for name, options in RUNS.items():
        print(name, flush=True)
        _command("deconvolve", *options, "-o", f"{name}.fits", "--overwrite", "--quiet", older=older)
    print("stamps", flush=True)
    subprocess.run([sys.executable, "-c", STAMPS, PAIR], check=True, capture_output=True)
    print("measured", flush=True)
    _command(
        "measure", "gaussian, sky, draws.fits", "--radius", "5pix", "-o", "measured.ecsv", "--overwrite", older=older
    )
    print("calibrated", flush=True)
    Path("calibrated.toml").write_text(CALIBRATED)
    _command("calibrate", "calibrated.toml", "--cases", "20", "--draws", "19", "-o", "calibrated.json", "--overwrite",
             "--quiet", older=older)  # fmt: skip


def _numbers(path: Path) -> dict[str, str]:
    """SHA-256 of each extension's data, and the value of each number among the cards."""
    found = {}
    with fits.open(path) as hdus:
        for hdu in hdus:
            name = RENAMED.get(hdu.name, hdu.name)
            if hdu.data is not None:
                found[name] = hashlib.sha256(np.ascontiguousarray(hdu.data).tobytes()).hexdigest()[:16]
            for key, value in hdu.header.items():
                if isinstance(value, float) and not key.startswith(PASSING):
                    found[f"{name}.{CARDS.get(key, key)}"] = repr(value)
    return found


def compare(before: Path, after: Path) -> int:
    """Print what differs; the number of differences."""
    differences, same = 0, 0
    for old in sorted(before.glob("*.fits")):
        a, b = _numbers(old), _numbers(after / old.name)
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) == b.get(key):
                same += 1
            else:
                differences += 1
                print(f"{old.name} {key}: {a.get(key)} -> {b.get(key)}")
    for name in ("measured.ecsv", "calibrated.json"):
        a, b = ((folder / name).read_text() for folder in (before, after))
        rows = [[line for line in text.splitlines() if not line.startswith("#")] for text in (a, b)]
        if name.endswith(".json"):
            rows = [[json.dumps({k: v for k, v in json.loads(t).items() if k not in ("settings", "sha256")})]
                    for t in (a, b)]  # fmt: skip
        if rows[0] == rows[1]:
            same += len(rows[0])
        else:
            differences += 1
            print(f"{name} differs")
    print(f"{same} numbers and extensions are the same, {differences} differ")
    return differences


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    sub = parser.add_subparsers(dest="what", required=True)
    sub.add_parser("record").add_argument("folder", type=Path)
    two = sub.add_parser("compare")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.what == "record":
        record(given.folder.resolve())
    else:
        raise SystemExit(1 if compare(given.before.resolve(), given.after.resolve()) else 0)


if __name__ == "__main__":
    main()
