"""invprob: Bayesian imaging inverse problems on JAX.

``data = F(x) + noise``, ``p(x | data) ∝ p(data | F(x)) p(x)``. The names below follow that line; all others are in the
rooms of the package, such as `invprob.sampling`. They are imported when they are first used, so that ``import invprob``
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = (
    "observation", "operators", "covariance", "likelihoods", "priors", "posterior", "optimize", "evidence", "sampling",
    "variational", "diagnostics", "calibration", "results", "measure", "simulate", "testing",
)  # fmt: skip
_NAMES = {
    # observation
    "Observation": "observation", "Frame": "observation", "PSF": "observation", "read_fits": "io.read.read_fits",
    # model
    "Diagonal": "covariance", "Stationary": "covariance", "Posterior": "posterior", "Hierarchy": "posterior",
    "field_hierarchy": "posterior",
    # inference
    "find_map": "optimize.find_map", "maximize_evidence": "evidence.marginal", "sample": "sampling.sample",
    "fit_variational": "variational.fit",
    # results and the one door
    "Estimate": "results", "Samples": "results", "Status": "results", "Config": "config",
    "deconvolve": "pipeline.deconvolve", "deconvolve_many": "pipeline.batch", "write_fits": "io.write",
    "write_draws": "io.store", "read_draws": "io.store", "plot_result": "plot.result",
    "measure_image": "measure", "measure_sources": "measure", "simulate_pair": "simulate",
}  # fmt: skip

__all__ = [*_ROOMS, *_NAMES, "__version__"]

if TYPE_CHECKING:
    from invprob import (
        calibration,
        covariance,
        diagnostics,
        evidence,
        likelihoods,
        measure,
        observation,
        operators,
        optimize,
        posterior,
        priors,
        results,
        sampling,
        simulate,
        testing,
        variational,
    )
    from invprob.config import Config
    from invprob.covariance import Diagonal, Stationary
    from invprob.evidence.marginal import maximize_evidence
    from invprob.io.read.read_fits import read_fits
    from invprob.io.store import read_draws, write_draws
    from invprob.io.write import write_fits
    from invprob.measure import measure_image, measure_sources
    from invprob.observation import PSF, Frame, Observation
    from invprob.optimize.find_map import find_map
    from invprob.pipeline.batch import deconvolve_many
    from invprob.pipeline.deconvolve import deconvolve
    from invprob.plot.result import plot_result
    from invprob.posterior import Hierarchy, Posterior, field_hierarchy
    from invprob.results import Estimate, Samples, Status
    from invprob.sampling.sample import sample
    from invprob.simulate import simulate_pair
    from invprob.variational.fit import fit_variational


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        value = import_module(f"invprob.{name}")
    elif name in _NAMES:
        value = getattr(import_module(f"invprob.{_NAMES[name]}"), name)
    else:
        raise AttributeError(f"module 'invprob' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
