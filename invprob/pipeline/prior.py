"""The prior of a run and its strength: by name, by hand or from the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from invprob import priors
from invprob.config import Config
from invprob.covariance import Stationary
from invprob.errors import CapabilityError, InputError, UsageError
from invprob.evidence.fission import RTOL, strength_by_fission
from invprob.evidence.marginal import Evidence, maximize_evidence
from invprob.optimize.find_map import as_solver
from invprob.pipeline.learned import learned_prior, warnings
from invprob.pipeline.problem import Model
from invprob.posterior import Hierarchy, Posterior
from invprob.posterior.hierarchies import field_hierarchy, strength_hierarchy, with_noise_scale, with_psf_width
from invprob.priors.capabilities import AbstractPrior
from invprob.priors.weights_file import SHIPPED, is_learned
from invprob.progress import SILENT, Listener
from invprob.recipes.named import FIELDS, NamedPrior, known_priors, named_prior

Cards = dict[str, tuple[Any, str]]

SPECTRUM = {
    "log_amplitude": ("PRIORAMP", "A of P(k) = A (1 + (k/k0)^2)^(-a/2)"),
    "log_scale": ("PRIORSCL", "k0, cycles per latent pixel"),
    "log_slope": ("PRIORSLP", "a"),
}
SPARSE = {"log_strength": ("PRIORSTR", "strength of the prior, in the noise of the data")}
DATA = {
    "log_noise": ("NOISEFAC", "factor of the noise's sigma"),
    "log_width": ("PSFWID", "factor of the PSF's width"),
}


@dataclass(frozen=True)
class Strength:
    """A posterior with its hyperparameters set, and the record of how they were.

    Where they are sampled with the image, ``hierarchy`` has what they begin with and their bounds.
    """

    post: Posterior
    cards: Cards
    hierarchy: Hierarchy | None = None

    @property
    def target(self) -> Posterior | Hierarchy:
        """What is sampled."""
        return self.post if self.hierarchy is None else self.hierarchy

    def given(self, theta: Mapping[str, Any]) -> Posterior:
        """The posterior at sampled hyperparameters."""
        return self.post if self.hierarchy is None else self.hierarchy.build(dict(theta))


def choose_strength(model: Model, config: Config, listener: Listener = SILENT) -> Strength:
    """The posterior with the prior's strength by hand or from the data."""
    if config.prior == "gaussian":
        return _gaussian(model, config, listener)
    if config.prior == "lognormal":
        return _lognormal(model, config, listener)
    if is_learned(config.prior):
        return _learned(model, config, listener)
    return _named(model, config, listener)


def nominal(model: Model, config: Config) -> Strength:
    """The posterior of the prior that is asked for, at some strength: to see whether a solver or sampler fits."""
    if config.prior in FIELDS:
        hierarchy = field_hierarchy(model.likelihood, model.frame.shape, model.others)
        field = _field(model, hierarchy.start)
        found = _finished(model, config, priors.LogNormal(field) if config.prior == "lognormal" else field, {})
        return replace(found, hierarchy=_sampled(hierarchy, hierarchy.start, model, config))
    if is_learned(config.prior):
        return _learned(model, config, SILENT)
    named = named_prior(config.prior)
    found = _finished(model, config, _made(named, model, jnp.ones((), model.dtype)), {})
    return replace(found, hierarchy=_of_strength(named, 1.0, model, config))


def _sampled(hierarchy: Hierarchy, start: dict[str, Array], model: Model, config: Config) -> Hierarchy | None:
    """The hierarchy from a start, with noise and PSF where asked for; None where nothing is sampled."""
    if not config.samples_hyper:
        return None
    hierarchy = replace(hierarchy, start=start)
    if config.noise_scale == "sample":
        hierarchy = with_noise_scale(hierarchy)
    if config.psf_error > 0:
        if model.kernel is None:
            raise UsageError("psf_error needs a PSF: give one, or leave it out")
        hierarchy = with_psf_width(hierarchy, jnp.asarray(model.kernel, model.dtype), config.psf_error)
    return hierarchy


def positive(prior: AbstractPrior, floor: Float[Array, ""]) -> AbstractPrior:
    """A prior of an image that is nowhere below the floor; several images share it, so that their sum is not.

    Raises
    ------
    UsageError
        When the prior cannot be restricted.
    """
    try:
        return priors.positive(prior, floor)
    except CapabilityError as error:
        raise UsageError(f"--positive does not go with this prior: {error}") from None


def _finished(model: Model, config: Config, prior: AbstractPrior, cards: Cards) -> Strength:
    """The posterior of a prior, restricted to positive images where that is asked for."""
    cards = {"PRIOR": (config.prior, "prior on the image"), **cards}
    if config.positive:
        floor = 0.0 - config.floor * float(model.unit)
        prior = positive(prior, jnp.asarray(floor, model.dtype))
        cards["FLOOR"] = (floor, "lowest value of a pixel of SCI")
    return Strength(model.posterior(prior), cards)


def _evidence(model: Model, config: Config, listener: Listener) -> tuple[dict[str, Array], Cards]:
    """Logarithms of amplitude, scale and slope of the Gaussian field, and their cards."""
    by_hand = (config.amplitude, config.scale, config.slope)
    hierarchy = field_hierarchy(model.likelihood, model.frame.shape, model.others)
    if all(value is not None for value in by_hand):
        theta = {
            name: jnp.log(jnp.asarray(value, model.dtype)) for name, value in zip(SPECTRUM, by_hand, strict=True)
        }  # fmt: skip
        evidence, how = Evidence(theta, float("nan"), "by hand", 0), "set by hand"
    else:
        listener.note("choosing the prior's amplitude, scale and slope by their evidence")
        evidence = maximize_evidence(hierarchy, note=listener.note)
        how = f"marginal likelihood, {evidence.method}"
        if evidence.at_bounds:
            how += f"; at its bound: {', '.join(n.removeprefix('log_') for n in evidence.at_bounds)}"
    theta = jax.tree.map(lambda t: jnp.asarray(t, model.dtype), evidence.theta)
    if isinstance(config.strength, float):
        theta["log_amplitude"] = theta["log_amplitude"] - jnp.log(config.strength)
        how += f", inverse amplitude times {config.strength:g}"
    cards: Cards = {SPECTRUM[name][0]: (float(np.exp(float(v))), SPECTRUM[name][1]) for name, v in theta.items()}
    cards["STRENGTH"] = (how, "how the prior's strength was chosen")
    if np.isfinite(evidence.log_evidence):
        cards["LOGEVID"] = (evidence.log_evidence, f"log evidence at the values found ({evidence.method})")
    return theta, cards


def _field(model: Model, theta: dict[str, Array]) -> priors.GaussianField:
    power = priors.PowerLaw(*(jnp.exp(theta[name]) for name in ("log_amplitude", "log_scale", "log_slope")))
    return priors.GaussianField(model.frame.shape, power)


def _gaussian(model: Model, config: Config, listener: Listener) -> Strength:
    theta, cards = _evidence(model, config, listener)
    if config.samples_hyper:
        cards["STRENGTH"] = ("sampled with the image, from the largest marginal likelihood", "how it was chosen")
    hierarchy = field_hierarchy(model.likelihood, model.frame.shape, model.others)
    return replace(
        _finished(model, config, _field(model, theta), cards), hierarchy=_sampled(hierarchy, theta, model, config)
    )


def hyper_cards(hyper: Mapping[str, np.ndarray]) -> Cards:
    """Median and 68 % interval of each hyperparameter that was sampled."""
    cards: Cards = {}
    for name, (keyword, words) in {**SPECTRUM, **SPARSE, **DATA}.items():
        if name in hyper:
            low, middle, high = np.exp(np.percentile(hyper[name], [16, 50, 84]))
            cards[keyword] = (float(middle), f"{words}, median")
            cards[f"{keyword[-3:]}16"] = (float(low), f"16 % of the draws of {keyword} are below")
            cards[f"{keyword[-3:]}84"] = (float(high), f"84 % of the draws of {keyword} are below")
    return cards


def _lognormal(model: Model, config: Config, listener: Listener) -> Strength:
    """The log-normal field with the mean of the data and the second moments of the best Gaussian field.

    With M the mean and C(r) = E[x(0) x(r)] of the image, the logarithm has the covariance log(C(r) / M^2).
    """
    theta, cards = _evidence(model, config, listener)
    mean = model.mean_image()
    if not mean > 0:
        raise InputError(
            f"the lognormal prior needs an image of positive mean, this one has {mean:.3g}: subtract the sky with "
            "--sky, or take another prior"
        )
    spectrum = _field(model, theta).covariance.power
    second = jnp.fft.irfft2(spectrum, s=model.frame.shape)
    log_covariance = jnp.log(jnp.maximum(second / mean**2, 1))
    power = jnp.real(jnp.fft.rfft2(log_covariance))
    power = jnp.maximum(power, 1e-8 * jnp.max(power))
    level = jnp.full(model.frame.shape, jnp.log(mean) - 0.5 * log_covariance[0, 0], model.dtype)
    field = priors.Gaussian(level, Stationary(power.astype(model.dtype), model.frame.shape))
    cards["PRIORMU"] = (float(level[0, 0]), "mean of the logarithm of a latent pixel")
    return _finished(model, config, priors.LogNormal(field), cards)


def _learned(model: Model, config: Config, listener: Listener) -> Strength:
    prior, cards = learned_prior(model, config)
    for line in warnings(cards):
        listener.note(f"warning: {line}")
    return _finished(model, config, prior, cards)


def _named(model: Model, config: Config, listener: Listener) -> Strength:
    named = named_prior(config.prior)
    strength, how = _strength_of(named, model, config, listener)
    cards: Cards = {
        "PRIORSTR": (strength, "strength of the prior, in the noise of the data"),
        "STRENGTH": (how, "how the prior's strength was chosen"),
    }
    found = _finished(model, config, _made(named, model, jnp.asarray(strength, model.dtype)), cards)
    return replace(found, hierarchy=_of_strength(named, strength, model, config))


def _of_strength(named: NamedPrior, strength: float, model: Model, config: Config) -> Hierarchy | None:
    """The hierarchy of the strength, which begins with this one; None where nothing is sampled."""
    if not config.samples_hyper:
        return None
    unit = _made(named, model, jnp.ones((), model.dtype))
    try:
        hierarchy = strength_hierarchy(model.posterior(unit))
    except CapabilityError as error:
        raise UsageError(f"strength 'sample' does not go with prior {config.prior!r}: {error}") from None
    return _sampled(hierarchy, {"log_strength": jnp.log(jnp.asarray(strength, model.dtype))}, model, config)


def _strength_of(named: NamedPrior, model: Model, config: Config, listener: Listener) -> tuple[float, str]:
    """The strength, and in words how it was chosen."""
    if isinstance(config.strength, float):
        return config.strength, "set by hand"
    if config.strength in ("auto", "sample") and named.strength is not None:
        if config.strength == "sample":
            return named.strength, "sampled with the image"
        return named.strength, "universal: in units of the noise"
    listener.note("choosing the prior's strength by data fission")

    def build(likelihood, strength):
        part = replace(model, observed=likelihood)
        return _finished(part, config, _made(named, model, strength), {}).post

    def solver_of(post):
        return as_solver(config.solver, post, RTOL)[0]

    found = strength_by_fission(build, model.observed, solver_of, seed=config.seed, note=listener.note)
    return found.strength, "data fission" + ("; at the end of what is tried" if found.at_bound else "")


def _made(named: NamedPrior, model: Model, strength: Float[Array, ""]) -> AbstractPrior:
    """The prior of a name, checked where another package makes it."""
    try:
        prior = named.make(model.setting(), strength)
    except Exception as error:  # whatever another package does
        if named.provider == "invprob":
            raise
        raise UsageError(f"prior {named.name!r} of {named.provider} failed: {type(error).__name__}: {error}") from error
    if not isinstance(prior, AbstractPrior):
        raise UsageError(f"prior {named.name!r} of {named.provider} gave a {type(prior).__name__}, not a prior")
    return prior


def listing() -> list[dict[str, Any]]:
    """Name, description, provider and universal strength of each prior; of one that cannot be loaded, why."""
    found = [{"name": name, "about": about, "provider": "invprob", "strength": None} for name, about in FIELDS.items()]
    found += [{"name": n, "about": about, "provider": "invprob", "strength": None} for n, about in SHIPPED.items()]
    for name, provider in known_priors().items():
        try:
            named = named_prior(name)
            about, strength = named.about, named.strength
        except UsageError as error:
            about, strength = str(error), None
        found.append({"name": name, "about": about, "provider": provider, "strength": strength})
    return found
