"""Whether draws and images may be believed: convergence of chains, goodness of fit, importance weights."""

from invprob.diagnostics.convergence import Gate, Quality, Streaming, assess
from invprob.diagnostics.goodness_of_fit import Fit, judge_fit
from invprob.diagnostics.importance import ParetoSmoothed, khat_threshold, psis

__all__ = [
    "Fit",
    "Gate",
    "ParetoSmoothed",
    "Quality",
    "Streaming",
    "assess",
    "judge_fit",
    "khat_threshold",
    "psis",
]
