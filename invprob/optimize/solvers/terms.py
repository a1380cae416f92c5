"""How solvers read the terms of a prior."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import PyTree

from invprob.errors import CapabilityError
from invprob.operators import Identity, Part
from invprob.operators.base import AbstractLinearOperator, LinearComposition
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasProx, HasSeparableProx


def picked(W: AbstractLinearOperator) -> PyTree | None:
    """Indices of the arrays of its input that W gives unchanged, None where it does something else."""
    parts = W.operators if isinstance(W, LinearComposition) else (W,)
    if not all(isinstance(part, Identity | Part) for part in parts):
        return None
    structure = W.in_structure
    return W.apply(structure.treedef.unflatten(list(range(len(structure.leaves)))))


def terms_of(post: Posterior, who: str) -> Sequence[tuple[AbstractLinearOperator, HasProx]]:
    """The terms of a prior; itself where it has a proximal map."""
    prior = post.prior
    terms = [(Identity(prior.structure), prior)] if isinstance(prior, HasProx) else prior.as_terms()
    if terms is None:
        raise CapabilityError(f"{who}: {type(prior).__name__} is not a sum of terms with a prox (HasTerms, HasProx)")
    return terms


def planes_of(W: AbstractLinearOperator, g: HasProx) -> int:
    """Number of planes of ``W x`` that may have a step or penalty each, which only a separable g allows."""
    out = W.out_structure
    stacked = len(out.leaves) == 1 and len(out.shape) == 3 and isinstance(g, HasSeparableProx)
    return out.shape[0] if stacked else 1
