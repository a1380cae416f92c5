"""How the sampler under test is run: traced by JAX, many cases in one compiled call, or on the host, case by case."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from invprob.calibration.residuals import Residuals, residual_checks, with_data
from invprob.errors import UsageError
from invprob.likelihoods import Gaussian
from invprob.posterior import Posterior

Sampler = Callable[[Posterior, Any, int], PyTree]


class Case(eqx.Module):
    """What is kept of one case: summaries, of the truth first and then of the draws, and the residuals."""

    summaries: dict[str, Array]
    residuals: Residuals


class World(eqx.Module):
    """The simulated world and what is looked at in it.

    Parameters
    ----------
    likelihood
        Likelihood of the data.
    analysed
        The posterior that is sampled, once its data are replaced.
    summaries
        From an image to named numbers and vectors.
    image_of
        From the latent pytree to that image.
    num_draws
        Draws in each case.
    """

    likelihood: Gaussian
    analysed: Posterior
    summaries: Callable[[Array], dict[str, Array]]
    image_of: Callable[[PyTree], Array]
    num_draws: int = eqx.field(static=True)

    def observed(self, truth: PyTree, key) -> Posterior:
        """The posterior that is sampled, with data simulated for a truth."""
        return with_data(self.analysed, self.likelihood.simulate(key, truth))

    def reduced(self, observed: Posterior, truth: PyTree, draws: PyTree) -> Case:
        """What is kept of a case."""
        self._check(draws)
        pool = jax.tree.map(lambda t, d: jnp.concatenate([t[None], d]), truth, draws)
        found = jax.vmap(lambda x: self.summaries(self.image_of(x)))(pool)
        return Case(found, residual_checks(observed, draws))

    def _check(self, draws):
        needed = jax.tree.map(lambda s: (self.num_draws, *s.shape), self.analysed.structure.tree)
        given = jax.tree.map(np.shape, draws)
        if given != needed:
            raise UsageError(
                f"the sampler gave draws of shape {given}; {needed} is needed: num_draws along a leading axis"
            )


class AbstractDraw(eqx.Module):
    """A sampler with the way in which it is run; ``sampler(post, key, num_draws)`` gives stacked latent pytrees."""

    sampler: eqx.AbstractVar[Sampler]

    @abstractmethod
    def cases(self, world: World, truths: PyTree, keys) -> Iterator[Case]:
        """Each case in turn, its arrays on the host; truths and keys have a leading axis."""


class PureDraw(AbstractDraw):
    """A sampler that JAX can trace: some cases run in one compiled call.

    Parameters
    ----------
    sampler
        A pure function ``(post, key, num_draws) -> draws``, or an `equinox.Module` whose arrays stay traced.
    chunk
        Cases in one call.
    batch
        Of those, how many at once, as one array: more is faster where a case alone leaves the machine idle, and takes
        more memory.
    """

    sampler: Sampler
    chunk: int = eqx.field(static=True, default=10)
    batch: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if not 1 <= self.batch <= self.chunk:
            raise UsageError(f"batch is 1 to chunk = {self.chunk} cases, not {self.batch}")

    def cases(self, world, truths, keys):
        for first in range(0, len(keys), self.chunk):
            last = min(first + self.chunk, len(keys))
            # the last call is filled up with its last case, so that it has the shape of the others
            index = np.minimum(np.arange(first, first + self.chunk), last - 1)
            chosen = jax.tree.map(lambda a, index=index: a[index], truths)
            batch = jax.device_get(_batch(world, self.sampler, chosen, keys[index], self.batch))
            for i in range(last - first):
                yield jax.tree.map(lambda a, i=i: a[i], batch)


class HostDraw(AbstractDraw):
    """A sampler that runs on the host, with Python control flow, called once for each case.

    Parameters
    ----------
    sampler
        Any function ``(post, key, num_draws) -> draws``.
    """

    sampler: Sampler

    def cases(self, world, truths, keys):
        for i in range(len(keys)):
            truth = jax.tree.map(lambda a, i=i: a[i], truths)
            data_key, draw_key = jax.random.split(keys[i])
            observed = _observed(world, truth, data_key)
            draws = self.sampler(observed, draw_key, world.num_draws)
            yield jax.device_get(_reduced(world, observed, truth, draws))


@eqx.filter_jit
def _batch(world: World, sampler: Sampler, truths: PyTree, keys, size: int) -> Case:
    def one(args):
        truth, key = args
        data_key, draw_key = jax.random.split(key)
        observed = world.observed(truth, data_key)
        return world.reduced(observed, truth, sampler(observed, draw_key, world.num_draws))

    return jax.lax.map(one, (truths, keys), batch_size=None if size == 1 else size)


@eqx.filter_jit
def _observed(world: World, truth: PyTree, key) -> Posterior:
    return world.observed(truth, key)


@eqx.filter_jit
def _reduced(world: World, observed: Posterior, truth: PyTree, draws: PyTree) -> Case:
    return world.reduced(observed, truth, draws)
