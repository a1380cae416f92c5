"""Which strength, and which model: marginal likelihood, Laplace approximation, data fission."""

from invprob.evidence.compare import Comparison, ModelEvidence, compare
from invprob.evidence.fission import Fission, split_data, strength_by_fission
from invprob.evidence.laplace import Laplace, laplace
from invprob.evidence.marginal import Evidence, log_evidence, maximise_evidence
from invprob.evidence.predictive import Predicted, predicted

__all__ = [
    "Comparison",
    "Evidence",
    "Fission",
    "Laplace",
    "ModelEvidence",
    "Predicted",
    "compare",
    "laplace",
    "log_evidence",
    "maximise_evidence",
    "predicted",
    "split_data",
    "strength_by_fission",
]
