"""Independent priors on the parts of a latent pytree."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax

from invprob.covariance import Blocks
from invprob.errors import CapabilityError
from invprob.operators.base import AbstractOperator, Identity, Structure, compose, total
from invprob.operators.function import Function
from invprob.operators.pytree import Part
from invprob.priors.capabilities import AbstractPrior, HasLogProb, HasSample
from invprob.priors.gaussian import Gaussian


class Product(HasLogProb, HasSample):
    """``p(x) = prod_j p_j(x_j)`` over the entries of a dictionary, list or tuple.

    Where all parts are Gaussian it is one Gaussian (`as_gaussian`), and is solved as such.

    Parameters
    ----------
    parts
        Pytree of priors.
    """

    parts: Any

    def __init__(self, parts: Any):
        self.parts = parts

    def _map(self, function, *trees):
        return jax.tree.map(function, self.parts, *trees, is_leaf=lambda n: isinstance(n, AbstractPrior))

    def _leaves(self):
        return jax.tree.leaves(self.parts, is_leaf=lambda n: isinstance(n, AbstractPrior))

    @property
    def normalized(self):  # type: ignore[override]
        return all(part.normalized for part in self._leaves())

    @property
    def structure(self):
        return Structure(self._map(lambda part: part.structure.tree))

    def as_gaussian(self):
        gaussians = [part.as_gaussian() for part in self._leaves()]
        if any(g is None for g in gaussians):
            return None
        mean = None
        if any(g.offset is not None for g in gaussians):
            mean = self._map(lambda part: part.as_gaussian().mean)
        return Gaussian(mean, Blocks(self._map(lambda part: part.as_gaussian().covariance)))

    def as_terms(self):
        found = []
        for path, part in jax.tree.leaves_with_path(self.parts, is_leaf=lambda n: isinstance(n, AbstractPrior)):
            terms = part.as_terms()
            if terms is None:
                return None
            reach = _reach(path, self.structure)
            found += [(compose(W, reach), g) for W, g in terms]
        return found

    def as_transform(self):
        if any(part.as_transform() is None for part in self._leaves()):
            return None
        each = self._map(lambda part: part.as_transform())
        return Function(_Transforms(each), self._map(lambda part: part.as_transform().in_structure.tree))

    def gaussian_approximation(self):
        if any(part.gaussian_approximation() is None for part in self._leaves()):
            return None
        mean = self._map(lambda part: part.gaussian_approximation().mean)
        return Gaussian(mean, Blocks(self._map(lambda part: part.gaussian_approximation().covariance)))

    def start(self, solution, covariance):
        assert isinstance(covariance, Blocks)  # as `matched` gives it
        return self._map(lambda part, x, c: part.start(x, c), solution, covariance.parts)

    def constrain(self, c, unit=1.0):
        return self._map(lambda part, value: part.constrain(value, unit), c)

    def unconstrain(self, x, unit=1.0):
        return self._map(lambda part, value: part.unconstrain(value, unit), x)

    def log_jacobian(self, c, unit=1.0):
        return total(self._map(lambda part, value: part.log_jacobian(value, unit), c))

    def log_prob(self, x):
        return total(self._map(lambda part, value: part.log_prob(value), x))

    def sample(self, key):
        parts, treedef = jax.tree.flatten(self.parts, is_leaf=lambda n: isinstance(n, AbstractPrior))
        mute = sorted({type(part).__name__ for part in parts if not isinstance(part, HasSample)})
        if mute:
            raise CapabilityError(f"a product is drawn from where its parts have HasSample; {', '.join(mute)} has not")
        keys = jax.random.split(key, len(parts))
        return treedef.unflatten([part.sample(k) for part, k in zip(parts, keys, strict=True)])


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
