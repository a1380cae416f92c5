"""What an inference gives."""

from invprob.results.estimate import Estimate, Samples, Status

__all__ = [
    "Estimate",
    "Samples",
    "Status",
]
