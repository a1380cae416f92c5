"""An observation and a result to be written, with all that is awkward in a header."""

import warnings

import numpy as np
from astropy.io import fits

from invprob.io.write import write_fits
from invprob.observation import Frame, InputFile, Observation
from invprob.results import Estimate, Status
from invprob.results.report import Record, Report

CONFIG = {"refine": 2, "prior": {"name": "gaussian", "strength": 1e-3}, "note": "it's 'α' & / \\ 'x' " * 12}
HEADER = """OBJECT  = 'M 13'               / what was observed
EXPTIME =                120.0 / [s]
CTYPE1  = 'RA---TAN'
CTYPE2  = 'DEC--TAN'
CRPIX1  =                  4.0
CRPIX2  =                  5.0
CRVAL1  =                 10.0
CRVAL2  =                -33.0
CDELT1  =               -1E-04
CDELT2  =                1E-04
BUNIT   = 'adu'
DATE-OBS= '2020-01-01'
SEED    =                 7777 / of the camera
SOLVER  = 'theirs'
BAD CARD= 3
UNENDED = 'no end
EMPTY   =                      / undefined
HIERARCH ESO TEL AIRM = 1.25   / long name
HISTORY flat fielded
HISTORY sky subtracted
COMMENT a comment"""
SHAPE = (6, 8)


def header():
    return fits.Header([fits.Card.fromstring(line) for line in HEADER.splitlines()])


def observation(**more):
    rng = np.random.default_rng(0)
    data = rng.normal(size=SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[2, 3] = True
    frame = Frame(SHAPE, pixel_scale=0.36, unit="adu", header=header())
    inputs = (
        InputFile("image", "a/very/long/path/" * 6 + "données 'x'.fits", "SCI", "ab" * 32),
        InputFile("psf", "psf.fits", "0", "cd" * 32),
    )
    kwargs = {
        "frame": frame,
        "inputs": inputs,
        "noise_source": "VAR extension",
        "warnings": ("BUNIT is strange",),
    }
    return Observation.from_arrays(data, 0.25, mask, **(kwargs | more))


def estimate(obs, factor=2, kind=Estimate, **more):
    frame = obs.frame.refine(factor)
    rng = np.random.default_rng(1)
    fine = tuple(factor * n for n in obs.shape)
    kwargs = {
        "x": None,
        "status": Status.CONVERGED,
        "solver": "cg",
        "reason": "linear forward, Gaussian noise and prior: σ is 'diagonal'",
        "steps": 12,
        "chi2": 40.0,
        "num_data": 47,
        "image": rng.normal(size=fine),
        "std": rng.uniform(1, 2, size=fine),
        "model": rng.normal(size=obs.shape),
        "residual": np.where(obs.valid, 0.5, np.nan),
        "inpainted": np.kron(~obs.valid, np.ones((factor, factor), bool)),
        "kernel": np.full((5, 5), 0.04, np.float32),
        "effective_dof": 32.0,
        "frame": frame,
        "report": Report(
            [
                Record("prior_amplitude", np.float32(2.5), "", "prior amplitude"),
                Record("bad_float", float("nan"), "", "not a number"),
            ]
        ),
    }
    return kind(**(kwargs | more))


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return write_fits(*args, **kwargs)
