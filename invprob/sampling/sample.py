"""Draws of a posterior, and what is known of their quality: `sample`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from invprob.covariance import white
from invprob.diagnostics.convergence import ChainDiagnostics, ConvergenceCriteria, RunningMoments, assess
from invprob.errors import CapabilityError, UsageError
from invprob.loop import StopRule, Watch
from invprob.operators.base import Structure, vdot
from invprob.optimize.choose import fits
from invprob.posterior import Hierarchy, Posterior
from invprob.priors.capabilities import AbstractPrior, HasLogProb, HasScore, offers
from invprob.results import Samples, Status
from invprob.sampling.chains import ChainRun, Record, SampleProgress, put_every, run_chains, thinning
from invprob.sampling.samplers.base import AbstractIndependent, AbstractMarkov, AbstractSampler, Draw
from invprob.sampling.samplers.gaussian import PerturbationOptimization, exact_draws, exact_sampler
from invprob.sampling.samplers.gibbs import ScaleMixture
from invprob.sampling.samplers.langevin import Langevin
from invprob.sampling.samplers.messenger import Messenger
from invprob.sampling.samplers.split import Split
from invprob.sampling.samplers.strength import StrengthMixture
from invprob.sampling.samplers.tfp import HMC, NUTS

SAMPLERS: dict[str, Callable[..., AbstractSampler]] = {
    "exact": lambda post, **settings: (
        PerturbationOptimization() if isinstance(post, Hierarchy) else exact_sampler(post)
    ),
    "messenger": lambda post, **settings: Messenger(**settings),
    "gibbs": lambda post, **settings: ScaleMixture(**settings),
    "hmc": lambda post, **settings: HMC(**settings),
    "langevin": lambda post, **settings: Langevin(**settings),
    "nuts": lambda post, **settings: NUTS(**settings),
    "split": lambda post, **settings: Split(**settings),
    "strength": lambda post, **settings: StrengthMixture(**settings),
}
CHUNK = 16  # independent draws in one compiled call
SCORE_RTOL = 1e-2  # between a score and the gradient of the log-density
LEAST = 4  # draws of a chain that can be judged at all


def as_sampler(
    method: str | AbstractSampler, post: Posterior | Hierarchy, num_warmup: int | None = None
) -> tuple[AbstractSampler, str]:
    """The sampler for a name or a sampler, and the reason for it.

    Raises
    ------
    UsageError
        For a name that is not known.
    CapabilityError
        Where none fits the posterior.
    """
    settings = {} if num_warmup is None else {"num_warmup": num_warmup}
    if method == "auto":
        return choose_sampler(post, **settings)
    if isinstance(method, str) and method not in SAMPLERS:
        raise UsageError(f"no sampler is called {method!r}; there are auto, {', '.join(SAMPLERS)}")
    sampler = method if isinstance(method, AbstractSampler) else SAMPLERS[method](post, **settings)
    if not isinstance(post, sampler.takes):
        raise CapabilityError(
            f"sampler {sampler.name!r} takes a {sampler.takes.__name__}, not a {type(post).__name__}: for sampled "
            "hyperparameters it is 'messenger' or 'strength', without them any other"
        )
    return sampler, "chosen by the caller"


def choose_sampler(post: Posterior | Hierarchy, **settings: Any) -> tuple[AbstractSampler, str]:
    """The sampler for a posterior, with these settings (``num_warmup``) where it takes them, and the reason in words.

    Raises
    ------
    CapabilityError
        When the prior offers nothing that a sampler here can use.
    """
    if isinstance(post, Hierarchy):
        if fits(messenger := Messenger(**settings), post):
            return messenger, (
                "convolution, Gaussian noise and a stationary Gaussian prior for every theta: Gibbs sampling of the "
                "image, a messenger field and theta"
            )
        if fits(strength := StrengthMixture(**settings), post):
            return strength, (
                "linear operator, Gaussian noise and the strength of a prior of norms: Gibbs sampling of the strength, "
                "the scales and the image"
            )
        raise CapabilityError(
            "no sampler for this hierarchy: for every theta a convolution behind a mask, a border or block sums, "
            "Gaussian noise of independent data and a stationary Gaussian prior of one image are needed, or the "
            "strength of a sparse prior as the only hyperparameter beside the scale of the noise"
        )
    name = type(post.prior).__name__
    if post.linear_gaussian() is not None:
        return exact_sampler(post), "linear operator, Gaussian noise and prior: independent exact draws"
    if fits(gibbs := ScaleMixture(**settings), post):
        return gibbs, (
            f"linear operator, Gaussian noise and a {name} prior of norms: Gibbs sampling of the scales and the image"
        )
    if post.prior.find(HasLogProb) is not None:
        return HMC(**settings), (
            f"{name} prior with a log-density: Hamiltonian Monte Carlo in locally stationary posterior coordinates"
        )
    if fits(split := Split(**settings), post):
        return split, (
            f"linear operator, Gaussian noise and a {name} with a denoiser: an auxiliary image, denoised by the "
            "reverse diffusion of the prior"
        )
    if post.prior.find(HasScore) is not None:
        return Langevin(**settings), (
            f"{name} prior with a score and no density: Langevin dynamics, approximate, since nothing can be refused"
        )
    raise CapabilityError(
        f"no sampler for a {name} prior: it offers {offers(post.prior)}; a sampler needs at least HasScore"
    )


def sample(
    post: Posterior | Hierarchy,
    key,
    num_samples: int = 1000,
    method: str | AbstractSampler = "auto",
    *,
    num_chains: int = 4, num_warmup: int | None = None,
    view: Callable[[PyTree], PyTree] = lambda x: x,
    criteria: ConvergenceCriteria | None = None,
    progress: Callable[[SampleProgress], None] | None = None,
    stop: StopRule | None = None, checkpoint: str | os.PathLike | None = None,
) -> Samples:  # fmt: skip
    """Draws of the posterior, with a status that does not call a bad chain good.

    Parameters
    ----------
    post
        Posterior; or a `Hierarchy`, whose hyperparameters are then drawn together with the image: the latent is
        ``{"theta": theta, "x": x}``.
    key
        Random key.
    num_samples
        Draws of all chains together, warm-up not counted.
    method
        ``"auto"`` chooses by structure: for a linear operator and Gaussian noise independent exact draws where the
        prior is Gaussian and Gibbs sampling where it is of norms (total variation, starlet, Laplace); Hamiltonian Monte
        Carlo else, and Langevin dynamics, which are approximate, for a prior that has a score and no density; for a
        hierarchy of Gaussian fields `Messenger`. ``"exact"``, ``"gibbs"``, ``"hmc"``, ``"nuts"``, ``"langevin"``,
        ``"messenger"``, or a sampler.
    num_chains
        Chains, from over-dispersed starts; four let R-hat see what one cannot. Independent draws have no chains.
    num_warmup
        Steps of warm-up of each chain; default: the sampler's own.
    view
        From the latent to what is kept of a draw; default: all of it. Mean and standard deviation are of the view.
    criteria
        What the chains have to satisfy for the status `Status.CONVERGED`.
    progress
        Called with a `SampleProgress` now and then.
    stop
        Rule that ends the chains early, such as ``invprob.loop.after(600)``, looked at with each line of progress; the
        draws so far are judged.
    checkpoint
        File that keeps the state of chains at Ctrl-C and every minute; the same call then goes on, with the numbers of
        a run that was not interrupted.

    Returns
    -------
    Samples
        ``x`` is the posterior mean of the view (exact for exact draws), ``latent_std`` its standard deviation and
        ``latents`` the draws with the leading axes ``(chain, draw)``; of a view that is one image they are ``image``,
        ``std`` and ``draws`` as well. ``quality`` says how well the chains mix, ``failures`` which criteria fail: any
        failure makes the status `Status.NOT_MIXED`.

    Raises
    ------
    UsageError, CapabilityError
        For a method that is not known, too few draws to be judged, or an operator, noise or prior that cannot do what
        the sampler needs.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter & Buerkner 2021, Bayesian Analysis 16, 667 (the criteria).
    """
    sampler, reason = as_sampler(method, post, num_warmup)
    if num_samples < 1 or num_chains < 1:
        raise UsageError(f"num_samples and num_chains are at least 1, not {num_samples} and {num_chains}")
    if isinstance(sampler, AbstractIndependent):
        return _independent(post, sampler, reason, key, num_samples, view)
    assert isinstance(sampler, AbstractMarkov)
    if isinstance(post, Posterior):
        check_score(post.prior, post.likelihood.data.dtype)  # type: ignore[attr-defined]
    num_draws = -(-num_samples // num_chains)
    if num_draws < LEAST:
        raise UsageError(
            f"{num_samples} draws of {num_chains} chains are {num_draws} of each: fewer than {LEAST} cannot be judged; "
            "raise num_samples"
        )
    run = run_chains(post, sampler, key, num_chains, num_draws, view, Watch(progress, stop, checkpoint))
    return _judged(post, sampler, reason, run, criteria or ConvergenceCriteria())


def check_score(prior: AbstractPrior, dtype) -> None:
    """Refuse a prior whose own score is not the gradient of its log-density: a Metropolis test would be on a fake.

    Raises
    ------
    CapabilityError
        With both numbers, along one direction at one point.
    """
    density = prior.find(HasLogProb)
    if density is None or type(density).score is HasLogProb.score:
        return
    x, d = (white(key, prior.structure, dtype) for key in jax.random.split(jax.random.key(0), 2))
    x = prior.constrain(x)
    said = float(vdot(density.score(x), d))
    found = float(jax.jvp(density.log_prob, (x,), (d,))[1])
    size = float(jnp.sqrt(vdot(density.score(x), density.score(x)) * vdot(d, d)))
    if not abs(said - found) <= SCORE_RTOL * max(size, 1e-30):
        raise CapabilityError(
            f"the score of the {type(prior).__name__} prior is not the gradient of its log_prob: {said:.6g} and "
            f"{found:.6g} along one direction; repair it, or leave log_prob out where there is no density"
        )


@eqx.filter_jit
def _mean(sampler: AbstractIndependent, post: Posterior) -> Draw:
    return sampler.mean(sampler.prepare(post))


class _Around(eqx.Module):
    """The view of a draw, from its deviation."""

    mean: PyTree
    view: Callable[[PyTree], PyTree]

    def __call__(self, deviation: PyTree) -> PyTree:
        return self.view(jax.tree.map(jnp.add, self.mean, deviation))


def _independent(post, sampler: AbstractIndependent, reason, key, num_samples, view) -> Samples:
    mean = _mean(sampler, post)
    centre = jax.tree.map(np.asarray, view(mean.value))
    every = thinning(centre, num_samples)
    latents = jax.tree.map(lambda a: np.zeros((1, num_samples // every, *a.shape), a.dtype), centre)

    def fold(seen: Any, values: Any) -> Any:
        seen = jax.tree.map(lambda _: RunningMoments(), centre) if seen is None else seen
        first = jax.tree.leaves(seen)[0].count
        values = jax.tree.map(np.asarray, values)
        jax.tree.map(lambda kept, new: put_every(kept[0], first, every, new), latents, values)
        return jax.tree.map(_counted, seen, values)

    around = _Around(mean.value, view)
    seen, good = exact_draws(post, key, num_samples, around, sampler=sampler, chunk=CHUNK, fold=fold)
    good &= bool(mean.code == 1)
    std = jax.tree.map(lambda moments: np.sqrt(moments.squares / max(num_samples - 1, 1)), seen)
    return _samples(
        post, centre, std, latents, sampler, status=Status.CONVERGED if good else Status.MAX_STEPS, reason=reason,
        steps=num_samples, chi2=float(post.likelihood.chi2(mean.value)),
    )  # fmt: skip


def _counted(moments: RunningMoments, draws: np.ndarray) -> RunningMoments:
    # one at a time: a chunk in double precision, less its mean and squared, is many times its size
    for draw in draws:
        moments = moments.add(draw[None])
    return moments


def _judged(
    post: Posterior | Hierarchy, sampler: AbstractMarkov, reason: str, run: ChainRun, criteria: ConvergenceCriteria
) -> Samples:
    record, done = run.record, run.done
    latents = jax.tree.map(lambda a: np.swapaxes(a[: done // run.every], 0, 1), record.kept)
    variance = jax.tree.map(lambda s: s / max(done * record.accept.shape[1] - 1, 1), record.square)
    std = jax.tree.map(np.sqrt, variance)
    quality, failures = None, ("too few draws to be judged",)
    early = run.interrupted or (run.stopped and not done)
    finite = early or (done > 0 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(record.mean)))
    if done >= LEAST and finite:
        quality = _quality(record, done)
        failures = criteria.judge(quality)
    status = Status.CONVERGED if not failures else Status.NOT_MIXED
    if not finite:
        status = Status.NOT_FINITE
    if run.interrupted:
        status = Status.INTERRUPTED
    dtype = post.likelihood.data.dtype  # type: ignore[attr-defined]
    mean = jax.tree.map(lambda m: np.asarray(m, dtype), record.mean)
    at_mean = post.chi2(mean) if post.structure.matches(Structure(mean)) else jnp.nan
    return _samples(
        post, mean, std, latents, sampler, status=status, reason=reason, steps=done * record.accept.shape[1],
        chi2=float(at_mean), quality=quality, failures=failures, gradients=run.gradients,
        num_chains=record.accept.shape[1], every=run.every, stats=_stats(record, done, run.every),
    )  # fmt: skip


def _stats(record: Record, done: int, every: int) -> dict[str, np.ndarray]:
    """What is known of each draw that is kept, ``(chain, draw)``."""
    known = {"acceptance_rate": record.accept, "diverging": record.divergent}
    if np.isfinite(record.energy[:done]).any():
        known["energy"] = record.energy
    return {name: np.swapaxes(values[every - 1 : done : every], 0, 1) for name, values in known.items()}


def _quality(record: Record, done: int) -> ChainDiagnostics:
    def by_chain(a):
        return np.swapaxes(a[:done], 0, 1)

    hamiltonian = bool(np.isfinite(record.energy[:done]).all())
    return assess(
        {name: by_chain(values) for name, values in record.tracked.items()},
        energies=by_chain(record.energy) if hamiltonian else None,
        divergent=by_chain(record.divergent),
        acceptance=by_chain(record.accept),
    )


def _samples(
    post: Posterior | Hierarchy, mean: PyTree, std: PyTree, latents: PyTree, sampler: AbstractSampler, **more: Any
):
    """The result; of a view that is one image, with that image and its draws."""
    single = isinstance(mean, np.ndarray) and mean.ndim == 2
    return Samples(
        x=mean, solver=sampler.name, num_data=int(post.likelihood.num_data), latents=latents, latent_std=std,
        image=mean if single else None, std=std if single else None,
        draws=latents.reshape(-1, *mean.shape) if single else None, bias=sampler.bias, **more,
    )  # fmt: skip


__all__ = ["SAMPLERS", "as_sampler", "sample"]
