"""Independent priors on the parts of a latent pytree."""

from __future__ import annotations

from typing import Any

import jax

from invprob.covariance import Blocks
from invprob.operators.base import Structure, total
from invprob.priors.base import AbstractPrior, HasLogProb, HasSample
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

    def matched(self):
        if any(part.matched() is None for part in self._leaves()):
            return None
        mean = self._map(lambda part: part.matched().mean)
        return Gaussian(mean, Blocks(self._map(lambda part: part.matched().covariance)))

    def start(self, solution, covariance):
        assert isinstance(covariance, Blocks)  # as `matched` gives it
        return self._map(lambda part, x, c: part.start(x, c), solution, covariance.parts)

    def constrain(self, c):
        return self._map(lambda part, value: part.constrain(value), c)

    def unconstrain(self, x):
        return self._map(lambda part, value: part.unconstrain(value), x)

    def log_prob(self, x):
        return total(self._map(lambda part, value: part.log_prob(value), x))

    def sample(self, key):
        parts, treedef = jax.tree.flatten(self.parts, is_leaf=lambda n: isinstance(n, AbstractPrior))
        keys = jax.random.split(key, len(parts))
        return treedef.unflatten([part.sample(k) for part, k in zip(parts, keys, strict=True)])
