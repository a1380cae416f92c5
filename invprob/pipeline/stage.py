"""One observation to one estimate: `deconvolve`, the door that command line, notebooks and pipelines go through.

It reads no file and writes none; its arguments and results can be pickled.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from invprob import likelihoods, priors
from invprob.config import Config
from invprob.covariance import Diagonal
from invprob.errors import UsageError
from invprob.infer.evidence import Evidence, maximise_evidence
from invprob.infer.find_map import NAMES, as_solver, find_map
from invprob.infer.loop import Progress
from invprob.infer.samplers.gaussian import exact_draws, variance_along
from invprob.infer.solvers import AbstractSolver, ConjugateGradient, TwoGrid
from invprob.infer.strength import field_hierarchy
from invprob.observation import Frame, Observation
from invprob.operators import (
    AbstractLinearOperator,
    Convolve,
    Crop,
    Each,
    Fill,
    Multiply,
    PixelBin,
    Sum,
    compose,
)
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


def forward(frame: Frame, kernel: Any, dtype, is_brightness: bool) -> AbstractLinearOperator:
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


def build_model(observation: Observation, config: Config, frame: Frame | None = None) -> Model:
    """Operator, likelihood and nuisance priors of an observation, on its own latent grid or a given one."""
    dtype = jnp.dtype(config.dtype)
    frame = latent_frame(observation, config) if frame is None else frame
    kernel = None if observation.psf is None else np.asarray(observation.psf.on(frame), dtype)
    operator = forward(frame, kernel, dtype, is_surface_brightness(observation.frame.unit))
    data = jnp.asarray(observation.data, dtype)
    others = None
    if config.sky == "fit":
        level, width = _sky_prior(observation)
        sky = priors.flat(jnp.asarray(level, dtype), jnp.asarray(width, dtype))
        each = Each({"image": operator, "sky": Fill(observation.shape)})
        operator = compose(Sum(each.out_structure), each)
        others = dict[str, priors.AbstractPrior](sky=sky)
    elif config.sky != "none":
        data = data - jnp.asarray(config.sky, dtype)
    _check_range(observation, dtype)
    noise = Diagonal(jnp.asarray(observation.variance, dtype))
    return Model(frame, kernel, likelihoods.Gaussian(operator, data, noise, jnp.asarray(observation.valid)), others)


def _check_range(observation: Observation, dtype) -> None:
    """Refuse numbers whose squares leave the range of the type."""
    variance = observation.variance[observation.valid]
    info, margin = np.finfo(dtype), 1e6
    if variance.min() < float(info.tiny) * margin or variance.max() > float(info.max) / margin**2:
        raise UsageError(
            f"the noise variance, {variance.min():.3g} to {variance.max():.3g}, leaves the range of {dtype.name}: "
            "use float64, or another unit"
        )


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
    check_solver(hierarchy.build(hierarchy.start), config)
    if all(value is not None for value in by_hand):
        theta = {
            name: jnp.log(jnp.asarray(value, model.likelihood.data.dtype))
            for name, value in zip(("log_amplitude", "log_scale", "log_slope"), by_hand, strict=True)
        }
        evidence, how = Evidence(theta, float("nan"), "by hand", 0), "set by hand"
    else:
        listener.note("choosing the prior's amplitude, scale and slope by their evidence")
        evidence = maximise_evidence(hierarchy, note=listener.note)
        how = f"marginal likelihood, {evidence.method}"
        if evidence.at_bounds:
            how += f"; at its bound: {', '.join(n.removeprefix('log_') for n in evidence.at_bounds)}"
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


class Kept(eqx.Module):
    """What is kept of a draw: its square, sky and noise-weighted prediction, and the image for `Samples`."""

    post: Posterior
    cut: Crop
    has_parts: bool = eqx.field(static=True)
    keep: bool = eqx.field(static=True)

    def __call__(self, deviation: PyTree) -> dict[str, Array]:
        image = self.cut.apply(deviation["image"] if self.has_parts else deviation)
        like = self.post.likelihood
        fitted = like.noise.inv_sqrt(like.operator.apply(deviation))  # type: ignore[attr-defined]
        zero = jnp.zeros((), image.dtype)
        return {
            "square": image**2,
            "sky": deviation["sky"] ** 2 if self.has_parts else zero,
            "fit": jnp.sum(fitted**2),
            "image": image if self.keep else zero,
        }


def views(post: Posterior, cut: Crop, x: PyTree, has_parts: bool) -> dict[str, Array]:
    """A solution on the grids that are written: image, prediction, residual, chi-square and sky."""
    like = post.likelihood
    residual = like.residual(x)
    return {
        "image": cut.apply(x["image"] if has_parts else x),
        "prediction": like.operator.apply(x),
        "residual": residual,
        "chi2": jnp.sum(residual**2),
        "sky": x["sky"] if has_parts else jnp.zeros((), residual.dtype),
    }


_views = eqx.filter_jit(views)


def flux_variance(post: Posterior, cut: Crop, has_parts: bool, max_steps: int) -> tuple[Array, Array]:
    """Posterior variance of the sum over the footprint, by one solve, and how that ended."""
    ones = cut.adjoint(jnp.ones(cut.out_structure.shape, post.likelihood.data.dtype))  # type: ignore[attr-defined]
    direction = {"image": ones, "sky": jnp.zeros((), ones.dtype)} if has_parts else ones
    return variance_along(post, direction, max_steps=max_steps)


_flux_variance = eqx.filter_jit(flux_variance)


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
    check(config)
    with jax.enable_x64(config.dtype == "float64"):
        model = build_model(observation, config)
        strength = choose_strength(model, config, listener)
        return _infer(observation, config, model, strength, listener, checkpoint)


def check(config: Config) -> None:
    """Refuse what does not fit together.

    Raises
    ------
    UsageError
        With what was asked, and what there is.
    """
    if config.prior != "gaussian":
        raise UsageError(f"no prior is called {config.prior!r}; there is 'gaussian'")
    if config.method == "sample" and config.num_samples < 1:
        raise UsageError("method 'sample' needs num_samples of at least 1")
    if config.solver not in ("auto", *NAMES):
        raise UsageError(f"no solver is called {config.solver!r}; there are auto, {', '.join(NAMES)}")
    if len({value is None for value in (config.amplitude, config.scale, config.slope)}) > 1:
        raise UsageError("amplitude, scale and slope go together: give all three, or none to find them from the data")


def check_solver(post: Posterior, config: Config) -> None:
    """Refuse a solver that cannot solve for this posterior, before any work is done.

    Raises
    ------
    UsageError
        With what the solver needs.
    """
    if config.solver == "auto":
        return
    solver, _ = as_solver(config.solver, post, config.rtol)
    try:
        eqx.filter_eval_shape(solver.prepare, post)
    except TypeError as error:
        raise UsageError(f"solver {config.solver!r} does not fit: {error}") from error


def pick_solver(post: Posterior, config: Config) -> tuple[AbstractSolver, str]:
    """The solver of a configuration, and the reason for it.

    Not on two grids unless asked for: the shape of the coarse one depends on the PSF and the strength, so that each
    image would be compiled for anew, and a stamp's result would depend on the others of its batch.
    """
    solver, reason = as_solver(config.solver, post, config.rtol)
    if config.solver == "auto" and isinstance(solver, TwoGrid):
        solver = ConjugateGradient(rtol=config.rtol)
        reason = "linear operator, Gaussian noise and prior: conjugate gradients, one program for all images of a shape"
    return solver, reason


def random_key(observation: Observation, config: Config):
    """The key of an observation's draws: the seed and its data, so that stamps do not share their draws."""
    return jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(observation.data.tobytes()))


def _infer(observation, config, model, strength, listener, checkpoint) -> Estimate | Samples:
    post = strength.post
    listener.note(f"solving for {int(np.prod(model.frame.shape))} latent pixels")
    solver, reason = pick_solver(post, config)
    best = find_map(
        post,
        solver,
        rtol=config.rtol,
        max_steps=config.max_steps,
        progress=listener.step,
        checkpoint=checkpoint,
    )
    best = replace(best, reason=reason, cards={**best.cards, **strength.cards})
    cut, has_parts = Crop(model.frame.shape, model.frame.footprint), model.others is not None
    seen = jax.tree.map(np.asarray, _views(post, cut, best.x, has_parts))
    if config.num_samples == 0 or best.status is Status.INTERRUPTED:
        return assemble(best, seen, None, observation, model, config)
    listener.note(f"drawing {config.num_samples} exact samples for the errors")
    parts, good = exact_draws(
        post,
        random_key(observation, config),
        config.num_samples,
        Kept(post, cut, has_parts, config.method == "sample"),
        max_steps=config.max_steps,
        progress=listener.draw,
        fold=lambda part: {**part, "square": jnp.sum(part["square"], 0, keepdims=True)},
    )
    flux_variance, found = _flux_variance(post, cut, has_parts, config.max_steps)
    good &= bool(found == 1)
    drawn = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    drawn["square"] = drawn["square"].sum(0) / config.num_samples
    drawn["flux_variance"] = np.asarray(flux_variance)
    if best.status.ok and not good:
        best = replace(best, status=Status.MAX_STEPS)
    return assemble(best, seen, drawn, observation, model, config)


def assemble(
    best: Estimate,
    seen: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray] | None,
    observation: Observation,
    model: Model,
    config: Config,
) -> Estimate | Samples:
    """The result of a solution (`views`) and of its draws (`Kept`, stacked, with the mean of the squares)."""
    subtracted = 0.0 if config.sky in ("none", "fit") else float(config.sky)
    cards = dict(best.cards)
    cards["FLUX"] = (float(seen["image"].sum()), "sum of SCI over the footprint")
    if model.others is not None:
        cards["SKY"] = (float(seen["sky"]), "fitted sky level per data pixel")
    best = replace(
        best,
        image=seen["image"],
        model=seen["prediction"] + seen["prediction"].dtype.type(subtracted),
        residual=np.where(observation.valid, seen["residual"], np.nan),
        inpainted=np.kron(~observation.valid, np.ones((model.frame.factor,) * 2, bool)),
        kernel=model.kernel,
        frame=model.frame,
        cards=cards,
        no_std="draw samples: --num-samples 64" if drawn is None else "",
    )
    if drawn is None:
        return best
    trace = float(drawn["fit"].mean())
    cards["FLUXERR"] = (float(np.sqrt(drawn["flux_variance"])), "standard deviation of FLUX, exact")
    cards["NDRAWS"] = (config.num_samples, "exact draws behind the errors")
    cards["FITTRACE"] = (trace, "trace of the fit, from the draws")
    if model.others is not None:
        cards["SKYERR"] = (float(np.sqrt(drawn["sky"].mean())), "standard deviation of SKY")
    std = np.sqrt(drawn["square"])
    best = replace(best, std=std, effective_dof=best.num_data - trace, cards=cards)
    if config.method == "map":
        return best
    return Samples(**{**vars(best), "draws": seen["image"] + drawn["image"]})
