"""Which strength, and which model: marginal likelihood, Laplace approximation, data fission."""

from invprob.evidence.compare import Comparison, ModelEvidence, compare
from invprob.evidence.fission import Fission, split_data, strength_by_fission
from invprob.evidence.laplace import Laplace, laplace
from invprob.evidence.marginal import Evidence, log_evidence, maximize_evidence
from invprob.evidence.predictive import HeldOutPrediction, predicted

__all__ = [
    "Comparison",
    "Evidence",
    "Fission",
    "HeldOutPrediction",
    "Laplace",
    "ModelEvidence",
    "compare",
    "laplace",
    "log_evidence",
    "maximize_evidence",
    "predicted",
    "split_data",
    "strength_by_fission",
]
