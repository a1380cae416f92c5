"""One observation to one estimate: `deconvolve`, the door that command line, notebooks and pipelines go through.

It reads no file and writes none; its arguments and results can be pickled.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from invprob.config import Config
from invprob.covariance import Blocks, Stationary
from invprob.errors import UsageError
from invprob.infer.find_map import NAMES, as_solver, find_map
from invprob.infer.named import FIELDS, known_priors
from invprob.infer.samplers.gaussian import Perturbed, exact_draws, variance_along
from invprob.infer.solvers import AbstractSolver, ConjugateGradient, TwoGrid
from invprob.observation import Observation
from invprob.operators import Crop
from invprob.operators.base import total
from invprob.pipeline.draws import chains, check_sampler, check_sampler_name, on_the_footprint, quality_cards
from invprob.pipeline.listener import SILENT, Listener
from invprob.pipeline.model import Model, build_model
from invprob.pipeline.prior import choose_strength, hyper_cards, nominal
from invprob.posterior import Posterior
from invprob.result import Estimate, Samples, Status


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


def views(post: Posterior, cut: Crop, x: PyTree, has_parts: bool) -> dict[str, Any]:
    """A solution on the grids that are written: image and its parts, prediction, residual, chi-square and sky."""
    like = post.likelihood
    residual = like.residual(x)
    images = x["image"] if has_parts else x
    parts = {name: cut.apply(part) for name, part in images.items()} if isinstance(images, dict) else {}
    return {
        "image": total(parts) if parts else cut.apply(images),
        "parts": parts,
        "prediction": like.operator.apply(x),
        "residual": residual,
        "chi2": jnp.sum(residual**2),
        "sky": x["sky"] if has_parts else jnp.zeros((), residual.dtype),
        "prior_variance": prior_variance(post, residual.dtype),
    }


def prior_variance(post: Posterior, dtype) -> Array:
    """Variance of a pixel of the image under a stationary Gaussian prior; NaN under any other."""
    gaussian = post.prior.as_gaussian()
    covariance = None if gaussian is None else gaussian.covariance
    if isinstance(covariance, Blocks):
        covariance = covariance.parts["image"]
    if not isinstance(covariance, Stationary):
        return jnp.full((), jnp.nan, dtype)
    return jnp.fft.irfft2(covariance.power, s=covariance.shape)[0, 0]


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
        if by_chains(config):
            check_sampler(model, config)
        else:
            check_solver(model, config)
        strength = choose_strength(model, config, listener)
        return _infer(observation, config, model, strength, listener, checkpoint)


def check(config: Config) -> None:
    """Refuse what does not fit together.

    Raises
    ------
    UsageError
        With what was asked, and what there is.
    """
    known = known_priors()
    if config.prior not in (*FIELDS, *known):
        raise UsageError(f"no prior is called {config.prior!r}; there are {', '.join([*FIELDS, *known])}")
    if config.prior in FIELDS and config.strength == "fission":
        raise UsageError(
            "strength 'fission' is for priors of one strength; amplitude, scale and slope of a field come from evidence"
        )
    check_sampler_name(config.sampler)
    _check_hyper(config)
    if config.method == "sample" and config.num_samples == 0:
        raise UsageError("method 'sample' needs num_samples of at least 1")
    if config.method != "sample" and config.intervals:
        raise UsageError("intervals come from draws: give --method sample")
    if config.solver not in ("auto", *NAMES):
        raise UsageError(f"no solver is called {config.solver!r}; there are auto, {', '.join(NAMES)}")
    if len({value is None for value in (config.amplitude, config.scale, config.slope)}) > 1:
        raise UsageError("amplitude, scale and slope go together: give all three, or none to find them from the data")


def _check_hyper(config: Config) -> None:
    if not config.samples_hyper:
        return
    what = "psf_error" if config.psf_error > 0 else "noise_scale 'sample'"
    what = "strength 'sample'" if config.strength == "sample" else what
    if config.method != "sample" or config.prior != "gaussian" or config.positive:
        raise UsageError(
            f"{what} draws hyperparameters together with the image: it goes with method 'sample' and prior 'gaussian', "
            "not positive"
        )
    if config.strength != "sample":
        raise UsageError(f"{what} goes with strength 'sample': what noise and PSF can be depends on the image")
    if config.amplitude is not None:
        raise UsageError("amplitude, scale and slope are sampled with strength 'sample': give none by hand")


def by_chains(config: Config) -> bool:
    """Whether the result is the mean of draws of chains."""
    return config.method == "sample" and not config.is_exact


def check_solver(model: Model, config: Config) -> None:
    """Refuse a solver that cannot solve for this model and prior, before any work is done.

    Raises
    ------
    UsageError
        With what the solver needs.
    """
    if config.solver == "auto":
        return
    post = nominal(model, config).post
    try:
        solver, _ = as_solver(config.solver, post, config.rtol)
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
        solver = ConjugateGradient(rtol=solver.rtol)
        reason = "linear operator, Gaussian noise and prior: conjugate gradients, one program for all images of a shape"
    return solver, reason


def random_key(observation: Observation, config: Config):
    """The key of an observation's draws: the seed and its data, so that stamps do not share their draws."""
    return jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(observation.data.tobytes()))


def _infer(observation, config, model, strength, listener, checkpoint) -> Estimate | Samples:
    post = strength.post
    if by_chains(config):
        return _sampled(observation, config, model, strength, listener, checkpoint)
    listener.note(f"solving for {int(np.prod(model.frame.shape))} latent pixels")
    solver, reason = pick_solver(post, config)
    best = find_map(
        post,
        solver,
        max_steps=config.max_steps,
        progress=listener.step,
        checkpoint=checkpoint,
    )
    best = replace(best, reason=reason, cards={**best.cards, **strength.cards})
    cut, has_parts = model.cut, model.others is not None
    seen = jax.tree.map(np.asarray, _views(post, cut, best.x, has_parts))
    if config.num_exact == 0 or not config.is_exact or best.status is Status.INTERRUPTED:
        return assemble(best, seen, None, observation, model, config)
    listener.note(f"drawing {config.num_exact} exact samples for the errors")
    (square, parts), good = exact_draws(
        post,
        random_key(observation, config),
        config.num_exact,
        Kept(post, cut, has_parts, config.method == "sample"),
        sampler=Perturbed(max_steps=config.max_steps),
        progress=listener.draw,
        fold=_gathered,
    )
    flux_variance, found = _flux_variance(post, cut, has_parts, config.max_steps)
    good &= bool(found == 1)
    drawn = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    drawn["square"] = np.asarray(square) / config.num_exact
    drawn["flux_variance"] = np.asarray(flux_variance)
    if best.status.ok and not good:
        best = replace(best, status=Status.MAX_STEPS)
    return assemble(best, seen, drawn, observation, model, config)


def _gathered(kept: tuple[Any, list[Any]] | None, part: dict[str, Array]) -> tuple[Any, list[Any]]:
    """The sum of the squares of all draws, and the rest of what is kept of each."""
    square, parts = (0, []) if kept is None else kept
    rest = {name: values for name, values in part.items() if name != "square"}
    return square + jnp.sum(part["square"], 0), [*parts, rest]


def _sampled(observation, config, model, strength, listener, checkpoint) -> Samples:
    """The posterior mean and the draws of chains."""
    found = chains(strength.target, config, random_key(observation, config), listener, checkpoint)
    if found.status is Status.INTERRUPTED:
        return found
    has_parts = model.others is not None
    mean = jax.tree.map(jnp.asarray, found.x)
    post = strength.given({name: jnp.mean(jnp.asarray(draws)) for name, draws in found.hyper.items()})
    seen = jax.tree.map(np.asarray, _views(post, model.cut, mean, has_parts))
    cards = {**strength.cards, **hyper_cards(found.hyper), **quality_cards(found, config)}
    best = replace(found, cards=cards, chi2=float(seen["chi2"]), latents=None)
    best = assemble(best, seen, None, observation, model, config)
    assert isinstance(best, Samples)
    draws, std = on_the_footprint(model, found)
    cards = dict(best.cards)
    flux = np.asarray(draws, float).sum((1, 2))
    cards["FLUXERR"] = (float(flux.std(ddof=1)), "standard deviation of FLUX, from the draws")
    if has_parts:
        cards["SKYERR"] = (float(found.latent_std["sky"]), "standard deviation of SKY, from the draws")
    return replace(best, std=std, draws=draws, no_std="", cards=cards, intervals=intervals_of(draws, config))


def intervals_of(draws: np.ndarray, config: Config) -> dict[str, np.ndarray]:
    """Ends of the central intervals of each pixel, by the name of their extension."""
    out = {}
    for percent in config.intervals:
        low, high = np.percentile(draws, [50 - percent / 2, 50 + percent / 2], axis=0)
        out |= {f"LOW{percent:g}": low, f"HIGH{percent:g}": high}
    return out


def _why_no_std(config: Config) -> str:
    return "draw samples: --num-samples 64" if config.is_exact else "draw samples: --method sample"


def assemble(
    best: Estimate,
    seen: dict[str, Any],
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
        no_std=_why_no_std(config) if drawn is None else "",
        parts=seen["parts"],
    )
    if drawn is None:
        return best
    trace = float(drawn["fit"].mean())
    cards["FLUXERR"] = (float(np.sqrt(drawn["flux_variance"])), "standard deviation of FLUX, exact")
    cards["NDRAWS"] = (config.num_exact, "exact draws behind the errors")
    cards["FITTRACE"] = (trace, "trace of the fit, from the draws")
    if model.others is not None:
        cards["SKYERR"] = (float(np.sqrt(drawn["sky"].mean())), "standard deviation of SKY")
    std = np.sqrt(drawn["square"])
    evidence = 1 - drawn["square"] / seen["prior_variance"]
    best = replace(
        best, std=std, effective_dof=best.num_data - trace, cards=cards,
        evidence=evidence if np.isfinite(seen["prior_variance"]) else None,
    )  # fmt: skip
    if config.method == "map":
        return best
    draws = seen["image"] + drawn["image"]
    return Samples(**{**vars(best), "draws": draws, "intervals": intervals_of(draws, config)})
