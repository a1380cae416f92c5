"""Independent priors on the parts of a latent pytree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax

from invprob.covariance import Blocks
from invprob.operators.base import AbstractOperator, Identity, Structure, compose, total
from invprob.operators.function import Function
from invprob.operators.pytree import Part
from invprob.priors.capabilities import (
    AbstractPrior,
    C,
    HasLogProb,
    HasParts,
    HasPrecision,
    HasSample,
    HasScore,
    HasStrength,
    HasTerms,
    HasTransform,
    HasWhitening,
    leaves_of,
    require,
)
from invprob.priors.gaussian import Gaussian


def _is_prior(node: Any) -> bool:
    return isinstance(node, AbstractPrior)


def _map(function: Callable, parts: Any, *trees: Any) -> Any:
    return jax.tree.map(function, parts, *trees, is_leaf=_is_prior)


def _is_lacking(each: Any) -> bool:
    """Whether a part has not got what was asked for."""
    return any(n is None for n in jax.tree.leaves(each, is_leaf=lambda n: n is None or _is_prior(n)))


class AbstractProduct(HasParts):
    """What every prior answers, part by part."""

    @property
    def structure(self):
        return Structure(_map(lambda part: part.structure.tree, self.parts))

    @property
    def is_sharp(self):
        return any(part.is_sharp for part in leaves_of(self.parts))

    def stiffness(self, u):
        return _map(lambda part, value: part.stiffness(value), self.parts, u)

    def gaussian_approximation(self):
        each = _map(lambda part: part.gaussian_approximation(), self.parts)
        if _is_lacking(each):
            return None
        return Gaussian(_map(lambda g: g.mean, each), Blocks(_map(lambda g: g.covariance, each)))

    def start(self, solution, covariance):
        assert isinstance(covariance, Blocks)  # as `gaussian_approximation` gives it
        return _map(lambda part, x, c: part.start(x, c), self.parts, solution, covariance.parts)

    def constrain(self, c, unit=1.0):
        return _map(lambda part, value: part.constrain(value, unit), self.parts, c)

    def unconstrain(self, x, unit=1.0):
        return _map(lambda part, value: part.unconstrain(value, unit), self.parts, x)

    def log_jacobian(self, c, unit=1.0):
        return total(_map(lambda part, value: part.log_jacobian(value, unit), self.parts, c))


class Product(AbstractProduct, HasLogProb, HasSample):
    """``p(x) = prod_j p_j(x_j)`` over the entries of a dictionary, list or tuple.

    What all parts can do, it can do as well, but for proximal maps and denoisers: where all are Gaussian it is one
    Gaussian, and is solved as such. `find` says so, as that of every prior does.

    Parameters
    ----------
    parts
        Pytree of priors.
    """

    parts: Any

    def __init__(self, parts: Any):
        self.parts = parts

    @property
    def normalized(self):
        return all(require(part, HasLogProb, "products").normalized for part in leaves_of(self.parts))

    def find(self, capability: type[C]) -> C | None:
        if capability is HasStrength:
            return cast(Any, self._of_one_strength())
        if capability not in _TOGETHER:
            return super().find(capability)
        whole = HasLogProb if capability is HasScore else HasPrecision if capability is HasWhitening else None
        if whole is not None and (found := self.find(whole)) is not None:
            return cast(Any, found)  # of the whole, rather than part by part
        each = _map(lambda part: part.find(capability), self.parts)
        if _is_lacking(each):
            return None
        return cast(Any, _TOGETHER[capability](each))

    def _of_one_strength(self) -> HasStrength | None:
        parts = leaves_of(self.parts)
        scaled = [part.find(HasStrength) is not None for part in parts]
        known = all(has or part.find(HasPrecision) is not None for has, part in zip(scaled, parts, strict=True))
        return _ProductStrength(self.parts) if known and any(scaled) else None

    def log_prob(self, x):
        return total(_map(lambda part, value: part.log_prob(value), self.parts, x))

    def barrier(self, x, kappa):
        parts, treedef = jax.tree.flatten(self.parts, is_leaf=_is_prior)
        each = [part.barrier(value, kappa) for part, value in zip(parts, treedef.flatten_up_to(x), strict=True)]
        return total([value for value, _ in each]), sum(number for _, number in each)

    def sample(self, key):
        parts, treedef = jax.tree.flatten(self.parts, is_leaf=_is_prior)
        able = [require(part, HasSample, "draws of a product") for part in parts]
        keys = jax.random.split(key, len(parts))
        return treedef.unflatten([part.sample(k) for part, k in zip(able, keys, strict=True)])


def _product_gaussian(parts: Any) -> Gaussian:
    zero = all(part.offset is None for part in leaves_of(parts))
    mean = None if zero else _map(lambda part: part.mean, parts)
    return Gaussian(mean, Blocks(_map(lambda part: part.covariance, parts)))


class _ProductScore(AbstractProduct, HasScore):
    """A product of priors with a score, some of them without a density."""

    parts: Any

    def score(self, x):
        return _map(lambda part, value: part.score(value), self.parts, x)


class _ProductTerms(AbstractProduct, HasTerms):
    """A product of priors with terms."""

    parts: Any

    @property
    def terms(self):
        found = []
        for path, part in jax.tree.leaves_with_path(self.parts, is_leaf=_is_prior):
            reach = _reach(path, self.structure)
            found += [(compose(W, reach), g) for W, g in part.terms]
        return found


class _AbstractProductTransform(AbstractProduct, HasTransform):
    """What products of priors with a transform have in common."""

    @property
    def transform(self):
        return _product_transform(self.parts)

    @property
    def is_smooth(self):
        return all(part.is_smooth for part in leaves_of(self.parts))


class _ProductTransform(_AbstractProductTransform):
    """A product of priors with a transform."""

    parts: Any


class _ProductWhitening(_AbstractProductTransform, HasWhitening):
    """A product of priors with a transform that has an inverse."""

    parts: Any

    def whitened(self, x):
        return _map(lambda part, value: part.whitened(value), self.parts, x)


class _ProductStrength(AbstractProduct, HasStrength):
    """A product of priors that share a strength, and Gaussians that have none."""

    parts: Any

    def cost(self, x):
        parts, treedef = jax.tree.flatten(self.parts, is_leaf=_is_prior)
        each = [(part.find(HasStrength), value) for part, value in zip(parts, treedef.flatten_up_to(x), strict=True)]
        return total([part.cost(value) for part, value in each if part is not None])

    def rescaled(self, factor):
        def one(part):
            found = part.find(HasStrength)
            return part if found is None else found.rescaled(factor)

        return Product(_map(one, self.parts))

    @property
    def rank(self):
        found = [part.find(HasStrength) for part in leaves_of(self.parts)]
        return sum(part.rank for part in found if part is not None)


_TOGETHER: dict[type[AbstractPrior], Callable[[Any], AbstractPrior]] = {
    HasLogProb: Product,
    HasPrecision: _product_gaussian,
    HasSample: Product,
    HasScore: _ProductScore,
    HasTerms: _ProductTerms,
    HasTransform: _ProductTransform,
    HasWhitening: _ProductWhitening,
}
"""What a product is where all its parts have a capability, of these parts as they have it."""


def _product_transform(parts: Any) -> AbstractOperator:
    each = _map(lambda part: part.transform, parts)
    sources = jax.tree.map(lambda T: T.in_structure.tree, each, is_leaf=lambda n: isinstance(n, AbstractOperator))
    return Function(_Transforms(each), sources)


class _Transforms(eqx.Module):
    """A map for each part, as a pytree, so that two products share one compilation."""

    parts: Any

    def __call__(self, xi):
        return jax.tree.map(
            lambda T, part: T.apply(part), self.parts, xi, is_leaf=lambda n: isinstance(n, AbstractOperator)
        )


def _reach(path, structure):
    """The part of a pytree at a path of keys, as an operator."""
    operator = Identity(structure)
    for entry in path:
        key = entry.idx if isinstance(entry, jax.tree_util.SequenceKey) else entry.key
        operator = compose(Part(key, operator.out_structure), operator)
    return operator


__all__ = ["AbstractProduct", "Product"]
