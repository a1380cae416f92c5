"""invprob: Bayesian imaging inverse problems on JAX.

``data = F(x) + noise``, ``p(x | data) ∝ p(data | F(x)) p(x)``. The names below follow that line. They are imported when
they are first used, so that ``import invprob`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    # observation
    "Observation": "observation", "Frame": "observation", "PSF": "psf", "read_fits": "io.read",
    "simulate_pair": "simulate",
    # model
    "operators": "", "covariance": "", "Diagonal": "covariance", "Stationary": "covariance", "likelihoods": "",
    "priors": "", "Posterior": "posterior", "Hierarchy": "posterior",
    # inference
    "infer": "", "find_map": "infer.find_map", "solve": "infer.find_map", "solve_many": "infer.find_map",
    "field_hierarchy": "infer.hierarchies", "strength_hierarchy": "infer.hierarchies",
    "with_noise_scale": "infer.hierarchies",
    "with_psf_width": "infer.hierarchies",
    "maximise_evidence": "infer.evidence", "log_evidence": "infer.evidence", "exact_draws": "infer.samplers.gaussian",
    "in_white_coordinates": "infer.white",
    "sample": "infer.sample", "Gate": "infer.diagnostics", "Quality": "infer.diagnostics",
    "fit_variational": "infer.variational", "laplace": "infer.laplace", "compare": "infer.compare",
    # results and the one door
    "Estimate": "result", "Samples": "result", "Status": "result", "Config": "config",
    "deconvolve": "pipeline.stage", "deconvolve_many": "pipeline.stamps", "write_fits": "io.write",
    "write_draws": "io.store", "read_draws": "io.store",
    "plot_result": "plot", "measure_image": "measure", "measure_sources": "measure", "Measurement": "measurement",
    "testing": "",
}  # fmt: skip

__all__ = [*_WHERE, "__version__"]

if TYPE_CHECKING:
    from invprob import covariance, infer, likelihoods, operators, priors, testing
    from invprob.config import Config
    from invprob.covariance import Diagonal, Stationary
    from invprob.infer.compare import compare
    from invprob.infer.diagnostics import Gate, Quality
    from invprob.infer.evidence import log_evidence, maximise_evidence
    from invprob.infer.find_map import find_map, solve, solve_many
    from invprob.infer.hierarchies import field_hierarchy, strength_hierarchy, with_noise_scale, with_psf_width
    from invprob.infer.laplace import laplace
    from invprob.infer.sample import sample
    from invprob.infer.samplers.gaussian import exact_draws
    from invprob.infer.variational import fit_variational
    from invprob.infer.white import in_white_coordinates
    from invprob.io.read import read_fits
    from invprob.io.store import read_draws, write_draws
    from invprob.io.write import write_fits
    from invprob.measure import measure_image, measure_sources
    from invprob.measurement import Measurement
    from invprob.observation import Frame, Observation
    from invprob.pipeline.stage import deconvolve
    from invprob.pipeline.stamps import deconvolve_many
    from invprob.plot import plot_result
    from invprob.posterior import Hierarchy, Posterior
    from invprob.psf import PSF
    from invprob.result import Estimate, Samples, Status
    from invprob.simulate import simulate_pair


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'invprob' has no attribute {name!r}")
    where = _WHERE[name]
    value = import_module(f"invprob.{where}") if where else import_module(f"invprob.{name}")
    value = getattr(value, name) if where else value
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
