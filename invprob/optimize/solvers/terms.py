"""How solvers read the terms of a prior."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import PyTree

from invprob.operators import Identity, Part
from invprob.operators.base import AbstractLinearOperator, LinearComposition
from invprob.posterior import Posterior
from invprob.priors.capabilities import HasProx, HasSeparableProx, HasTerms, OnlyTerm, require


def picked(W: AbstractLinearOperator) -> PyTree | None:
    """Indices of the arrays of its input that W gives unchanged, None where it does something else."""
    parts = W.operators if isinstance(W, LinearComposition) else (W,)
    if not all(isinstance(part, Identity | Part) for part in parts):
        return None
    structure = W.in_structure
    return W.apply(structure.treedef.unflatten(list(range(len(structure.leaves)))))


def terms_of(post: Posterior, who: str) -> Sequence[tuple[AbstractLinearOperator, HasProx]]:
    """The terms of a prior; itself where it has a proximal map."""
    alone = post.prior.find(HasProx)
    return (require(post.prior, HasTerms, who) if alone is None else OnlyTerm(alone)).terms


def planes_of(W: AbstractLinearOperator, g: HasProx) -> int:
    """Number of planes of ``W x`` that may have a step or penalty each, which only a separable g allows."""
    out = W.out_structure
    stacked = len(out.leaves) == 1 and len(out.shape) == 3 and g.find(HasSeparableProx) is not None
    return out.shape[0] if stacked else 1
