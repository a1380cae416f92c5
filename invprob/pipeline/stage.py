"""One observation to one estimate: `deconvolve`, the door that command line, notebooks and pipelines go through.

It reads no file and writes none; its arguments and results can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from invprob import likelihoods, priors
from invprob.config import Config
from invprob.covariance import Diagonal
from invprob.errors import UsageError
from invprob.infer.evidence import Evidence, maximise_evidence
from invprob.infer.find_map import find_map
from invprob.infer.loop import Progress
from invprob.infer.samplers.gaussian import exact_draws
from invprob.infer.strength import field_hierarchy
from invprob.observation import Frame, Observation
from invprob.operators import AbstractLinearOperator, Convolve, Crop, Each, Fill, Multiply, PixelBin, Sum, compose
from invprob.posterior import Posterior
from invprob.result import Estimate, Samples, Status
from invprob.units import is_surface_brightness

SKY_WIDTH = 1e3  # prior width of a fitted sky level, in units of the scatter of the data
PADDING = 16  # data pixels of modelled border where there is no PSF to ask for one


@dataclass(frozen=True)
class Listener:
    """Who is told of the progress of a run; nobody by default.

    Parameters
    ----------
    note
        Called with a line of text at each stage.
    step
        Called with a `Progress` after each chunk of the solver.
    draw
        Called with the draws done and to do.
    """

    note: Callable[[str], Any] = lambda text: None
    step: Callable[[Progress], Any] | None = None
    draw: Callable[[int, int], Any] | None = None


SILENT = Listener()


def latent_frame(observation: Observation, config: Config) -> Frame:
    """The latent grid: refined, with a border of the PSF's reach."""
    frame = observation.frame.refine(config.refine)
    if observation.psf is not None:
        return frame.pad(observation.psf)
    return frame.pad_by(PADDING * config.refine)


def forward(
    frame: Frame, kernel: Float[Array, "ky kx"] | None, dtype, is_brightness: bool
) -> AbstractLinearOperator:
    """Latent image on a padded frame to noiseless data: convolution, footprint, block sum (or mean)."""
    cut = Crop(frame.shape, frame.footprint)
    seen = cut if kernel is None else Convolve(jnp.asarray(kernel, dtype), frame.shape, frame.footprint)
    if frame.factor == 1:
        return seen
    binned = compose(PixelBin(frame.factor, seen.out_structure.shape), seen)  # type: ignore[arg-type]
    if not is_brightness:
        return binned
    return compose(Multiply(jnp.asarray(frame.factor**-2, dtype), binned.out_structure), binned)


@dataclass(frozen=True)
class Model:
    """The parts of one deconvolution, before the strength is known."""

    frame: Frame
    kernel: np.ndarray | None
    likelihood: likelihoods.Gaussian
    others: dict[str, priors.AbstractPrior] | None

    def image(self, x: PyTree) -> Array:
        """The image of a latent pytree, on the footprint."""
        return (x if self.others is None else x["image"])[self.frame.footprint]


def build_model(observation: Observation, config: Config) -> Model:
    """Operator, likelihood and nuisance priors of an observation."""
    dtype = jnp.dtype(config.dtype)
    frame = latent_frame(observation, config)
    kernel = None if observation.psf is None else np.asarray(observation.psf.on(frame), dtype)
    operator = forward(frame, kernel, dtype, is_surface_brightness(observation.frame.unit))
    data = jnp.asarray(observation.data, dtype)
    others = None
    if config.sky == "fit":
        level, width = _sky_prior(observation)
        sky = priors.flat(jnp.asarray(level, dtype), jnp.asarray(width, dtype))
        each = Each({"image": operator, "sky": Fill(observation.shape)})
        operator = compose(Sum(each.out_structure), each)
        others = {"sky": sky}
    elif config.sky != "none":
        data = data - jnp.asarray(config.sky, dtype)
    noise = Diagonal(jnp.asarray(observation.variance, dtype))
    valid = None if observation.valid.all() else jnp.asarray(observation.valid)
    return Model(frame, kernel, likelihoods.Gaussian(operator, data, noise, valid), others)


def _sky_prior(observation: Observation) -> tuple[float, float]:
    values = observation.data[observation.valid]
    middle = float(np.median(values))
    scatter = 1.4826 * float(np.median(np.abs(values - middle)))
    noise = float(np.sqrt(np.median(observation.variance[observation.valid])))
    return middle, SKY_WIDTH * max(scatter, noise)


@dataclass(frozen=True)
class Strength:
    """A posterior with its hyperparameters set, and the record of how they were."""

    post: Posterior
    cards: dict[str, tuple[Any, str]]


def choose_strength(model: Model, config: Config, listener: Listener = SILENT) -> Strength:
    """The posterior with the prior's strength by hand or from the data."""
    by_hand = (config.amplitude, config.scale, config.slope)
    hierarchy = field_hierarchy(model.likelihood, model.frame.shape, model.others)
    if all(value is not None for value in by_hand):
        theta = {
            name: jnp.log(jnp.asarray(value, model.likelihood.data.dtype))
            for name, value in zip(("log_amplitude", "log_scale", "log_slope"), by_hand, strict=True)
        }
        evidence, how = Evidence(theta, float("nan"), "by hand", 0), "set by hand"
    elif any(value is not None for value in by_hand):
        raise UsageError("amplitude, scale and slope go together: give all three, or none to find them from the data")
    else:
        listener.note("choosing the prior's amplitude, scale and slope by their evidence")
        evidence = maximise_evidence(hierarchy, note=listener.note)
        how = f"marginal likelihood, {evidence.method}"
    theta = jax.tree.map(lambda t: jnp.asarray(t, model.likelihood.data.dtype), evidence.theta)
    if config.strength != "auto":
        theta["log_amplitude"] = theta["log_amplitude"] - jnp.log(config.strength)
        how += f", inverse amplitude times {config.strength:g}"
    names = {"log_amplitude": "PRIORAMP", "log_scale": "PRIORSCL", "log_slope": "PRIORSLP"}
    words = {
        "PRIORAMP": "A of P(k) = A (1 + (k/k0)^2)^(-a/2)",
        "PRIORSCL": "k0, cycles per latent pixel",
        "PRIORSLP": "a",
    }
    cards: dict[str, tuple[Any, str]] = {
        names[name]: (float(np.exp(float(value))), words[names[name]]) for name, value in theta.items()
    }
    cards["STRENGTH"] = (how, "how the prior's strength was chosen")
    if np.isfinite(evidence.log_evidence):
        cards["LOGEVID"] = (evidence.log_evidence, f"log evidence at the values found ({evidence.method})")
    return Strength(hierarchy.build(theta), cards)


class _Summary(eqx.Module):
    """What is kept of a draw: image on the footprint, its sum, sky, and its noise-weighted prediction."""

    post: Posterior
    frame: Any = eqx.field(static=True)
    has_parts: bool = eqx.field(static=True)
    keep: bool = eqx.field(static=True)

    def __call__(self, deviation):
        full = deviation["image"] if self.has_parts else deviation
        image = full[self.frame]
        like = self.post.likelihood
        fitted = like.noise.inv_sqrt(like.operator.apply(deviation))  # type: ignore[attr-defined]
        sky = deviation["sky"] if self.has_parts else jnp.zeros(())
        kept = image if self.keep else jnp.zeros(())
        return {
            "square": image**2, "flux": jnp.sum(image), "sky": sky, "fit": jnp.sum(fitted**2), "image": kept
        }  # fmt: skip


def deconvolve(
    observation: Observation, config: Config | None = None, *, listener: Listener = SILENT, checkpoint=None
) -> Estimate | Samples:
    """The best latent image of an observation, with its errors.

    Parameters
    ----------
    observation
        Data, noise, mask and PSF.
    config
        What to do; default: the Gaussian prior with everything found from the data.
    listener
        Who is told of the progress.
    checkpoint
        File that keeps the state of the solver when it is interrupted.

    Returns
    -------
    Estimate or Samples
        ``image`` and ``std`` in flux per latent pixel on the data's footprint. `Samples` for ``method="sample"``.

    Raises
    ------
    UsageError
        When the configuration asks for what does not fit together.

    Notes
    -----
    Computed in ``config.dtype``, whatever the global setting of JAX. The same observation, configuration and machine
    give the same numbers.
    """
    config = Config.make() if config is None else config
    if config.prior != "gaussian":
        raise UsageError(f"no prior is called {config.prior!r}; there is 'gaussian'")
    if config.method == "sample" and config.num_samples < 1:
        raise UsageError("method 'sample' needs num_samples of at least 1")
    with jax.enable_x64(config.dtype == "float64"):
        model = build_model(observation, config)
        strength = choose_strength(model, config, listener)
        return _infer(observation, config, model, strength, listener, checkpoint)


def _infer(observation, config, model, strength, listener, checkpoint) -> Estimate | Samples:
    post = strength.post
    listener.note(f"solving for {int(np.prod(model.frame.shape))} latent pixels")
    best = find_map(
        post, config.solver, rtol=config.rtol, max_steps=config.max_steps, progress=listener.step, checkpoint=checkpoint
    )  # fmt: skip
    best = replace(best, cards={**best.cards, **strength.cards})
    described = _describe(best, observation, model, post)
    if config.num_samples == 0:
        return replace(described, no_std="draw samples: --num-samples 64")
    if best.status is Status.INTERRUPTED:
        return replace(described, no_std="the run was interrupted before its draws")
    return _with_errors(described, config, model, post, listener)


def _describe(best: Estimate, observation: Observation, model: Model, post: Posterior) -> Estimate:
    """An estimate with its image, model and residuals on their grids."""
    like = post.likelihood
    prediction = np.asarray(like.operator(best.x))
    added = float(observation.data[observation.valid][0] - np.asarray(like.data)[observation.valid][0])  # type: ignore[attr-defined]
    residual = np.where(observation.valid, np.asarray(like.residual(best.x)), np.nan)
    image = np.asarray(model.image(best.x))
    cards = dict(best.cards)
    cards["FLUX"] = (float(image.sum()), "sum of SCI over the footprint")
    if model.others is not None:
        cards["SKY"] = (float(best.x["sky"]), "fitted sky level per data pixel")
    covered = np.kron(~observation.valid, np.ones((model.frame.factor,) * 2, bool))
    return replace(
        best, image=image, model=prediction + added, residual=residual, inpainted=covered, kernel=model.kernel,
        frame=model.frame, cards=cards,
    )  # fmt: skip


def _with_errors(best: Estimate, config: Config, model: Model, post: Posterior, listener: Listener):
    listener.note(f"drawing {config.num_samples} exact samples for the errors")
    keep = config.method == "sample"
    summary = _Summary(post, model.frame.footprint, model.others is not None, keep)
    parts, good = exact_draws(
        post, jax.random.key(config.seed), config.num_samples, summary, max_steps=config.max_steps, progress=listener.draw
    )  # fmt: skip
    all_of = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    std = np.sqrt(all_of["square"].mean(0))
    trace = float(all_of["fit"].mean())
    cards = dict(best.cards)
    cards["FLUXERR"] = (float(np.sqrt((all_of["flux"] ** 2).mean())), "standard deviation of FLUX")
    cards["NDRAWS"] = (config.num_samples, "exact draws behind the errors")
    cards["FITTRACE"] = (trace, "trace of the fit, from the draws")
    if model.others is not None:
        cards["SKYERR"] = (float(np.sqrt((all_of["sky"] ** 2).mean())), "standard deviation of SKY")
    status = best.status if good or not best.status.ok else Status.MAX_STEPS
    changes = dict(std=std, effective_dof=best.num_data - trace, cards=cards, status=status)
    if not keep:
        return replace(best, **changes)
    fields = {**vars(best), **changes, "draws": best.image + all_of["image"]}
    return Samples(**fields)
