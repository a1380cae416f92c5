"""Whether draws and images may be believed: convergence of chains, goodness of fit, importance weights."""

from invprob.diagnostics.convergence import ChainDiagnostics, ConvergenceCriteria, RunningMoments, assess
from invprob.diagnostics.goodness_of_fit import GoodnessOfFit, goodness_of_fit
from invprob.diagnostics.importance import ParetoSmoothed, khat_threshold, psis

__all__ = [
    "ChainDiagnostics",
    "ConvergenceCriteria",
    "GoodnessOfFit",
    "ParetoSmoothed",
    "RunningMoments",
    "assess",
    "goodness_of_fit",
    "khat_threshold",
    "psis",
]
