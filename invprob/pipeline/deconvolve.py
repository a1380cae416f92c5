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
from invprob.observation import Observation
from invprob.operators import Crop
from invprob.operators.base import total
from invprob.optimize.find_map import as_solver, find_map
from invprob.optimize.solvers import AbstractSolver, ConjugateGradient, TwoGrid
from invprob.pipeline.approximate import approximate
from invprob.pipeline.check import by_chains, check, check_method, with_other_prior
from invprob.pipeline.draws import chains, fission_cards, fit_trace, on_the_footprint, quality_cards
from invprob.pipeline.exact import DrawSummary, prior_variances
from invprob.pipeline.fit import with_fit
from invprob.pipeline.learned import compared
from invprob.pipeline.prior import choose_strength, hyper_cards
from invprob.pipeline.problem import Model, build_model
from invprob.posterior import Posterior
from invprob.progress import SILENT, Listener
from invprob.results import Estimate, Samples, Status
from invprob.sampling.samplers.gaussian import PerturbationOptimization, exact_sums, variance_along


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
        "prior": prior_variances(post, residual.dtype),
    }


_views = eqx.filter_jit(views)
_prior_variances = eqx.filter_jit(prior_variances)


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
        ``image`` and ``std`` in flux per latent pixel on the data's footprint. `Samples` for
        ``method="sample"``, ``"vi"`` and ``"laplace"``.

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
        check_method(model, config)
        strength = choose_strength(model, config, listener)
        found = _infer(observation, config, model, strength, listener, checkpoint)
        if found.status is Status.INTERRUPTED:
            return found
        found = compared(with_fit(found, observation), config, listener)
        if config.fission_test:
            key = jax.random.fold_in(random_key(observation, config), 1)
            found = replace(found, cards={**found.cards, **fission_cards(strength.post, config, key, listener)})
    if config.compare_prior is None:
        return found
    listener.note(f"the same with prior {config.compare_prior}")
    return with_comparison(
        found, deconvolve(observation, with_other_prior(config), listener=listener), config.compare_prior
    )


def with_comparison(found: Estimate | Samples, other: Estimate | Samples, name: str) -> Estimate | Samples:
    """With the difference from the image of another prior, in units of both errors."""
    errors = [np.asarray(e.std, float) for e in (found, other) if e.std is not None]
    difference = (np.asarray(found.image, float) - np.asarray(other.image, float)) / np.sqrt(sum(e**2 for e in errors))
    cards = {
        "CMPPRIOR": (name, "the other prior of COMPARED"),
        "CMPRMS": (float(np.sqrt(np.mean(difference**2))), "root mean square of COMPARED"),
        "CMPMAX": (float(np.abs(difference).max()), "largest absolute value of COMPARED"),
    }
    return replace(found, comparison=difference, cards={**found.cards, **cards})


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
    if config.approximates:
        return _approximated(observation, config, model, strength, listener)
    if by_chains(config):
        return _sampled(observation, config, model, strength, listener, checkpoint)
    listener.note(f"solving for {int(np.prod(model.frame.shape))} latent pixels")
    solver, reason = pick_solver(post, config)
    best = find_map(
        post,
        solver,
        max_steps=config.solver_steps,
        progress=listener.step,
        checkpoint=checkpoint,
    )
    best = replace(best, reason=reason, cards={**best.cards, **strength.cards})
    cut, has_parts = model.cut, model.others is not None
    seen = jax.tree.map(np.asarray, _views(post, cut, best.x, has_parts))
    if config.num_exact == 0 or not config.is_exact or best.status is Status.INTERRUPTED:
        return assemble(best, seen, None, observation, model, config)
    listener.note(f"drawing {config.num_exact} exact samples for the errors")
    kept = DrawSummary(post, cut, has_parts, config.method == "sample")
    sums, parts, good = exact_sums(
        post, random_key(observation, config), config.num_exact, kept.squares, kept,
        PerturbationOptimization(max_steps=config.solver_steps), progress=listener.draw,
    )  # fmt: skip
    flux_variance, found = _flux_variance(post, cut, has_parts, config.solver_steps)
    good &= bool(found == 1)
    drawn: dict[str, Any] = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    drawn["squares"] = {name: np.asarray(value) / config.num_exact for name, value in sums.items()}
    drawn["flux_variance"] = np.asarray(flux_variance)
    if best.status.ok and not good:
        best = replace(best, status=Status.MAX_STEPS)
    return assemble(best, seen, drawn, observation, model, config)


def _sampled(observation, config, model, strength, listener, checkpoint) -> Samples:
    """The posterior mean and the draws of chains."""
    found = chains(strength.target, config, random_key(observation, config), listener, checkpoint)
    if found.status is Status.INTERRUPTED:
        return found
    post = strength.given({name: jnp.mean(jnp.asarray(draws)) for name, draws in found.hyper.items()})
    cards = {**strength.cards, **hyper_cards(found.hyper), **quality_cards(found, config)}
    draws = jax.tree.map(lambda a: jnp.asarray(a.reshape(-1, *a.shape[2:])), found.latents)
    trace = float(fit_trace(post, jax.tree.map(jnp.asarray, found.x), draws))
    cards["FITTRACE"] = (trace, "trace of the fit, from the draws")
    # the images are held on the footprint alone
    sky = None if model.others is None else {"sky": found.latents["sky"]}
    dof = found.num_data - trace
    found = replace(
        found, cards=cards, draws=on_the_footprint(model, found), latents=sky, effective_dof=dof if dof > 0 else None
    )
    return _with_contraction(_with_errors(found, post, observation, model, config), post, model)


def _approximated(observation, config, model, strength, listener) -> Samples:
    """The mean or maximum, and draws, of an approximation."""
    found = approximate(strength.post, model, config, random_key(observation, config), listener)
    best = _with_errors(
        replace(found, cards={**strength.cards, **found.cards}), strength.post, observation, model, config
    )
    return _with_contraction(best, strength.post, model)


def _with_contraction(best: Samples, post: Posterior, model: Model) -> Samples:
    """With the map of evidence, where the variance of a pixel under the prior is known."""
    variance = float(_prior_variances(post, model.dtype)["pixel"])
    if best.std is None or not np.isfinite(variance):
        return best
    return replace(best, contraction=1 - best.std**2 / variance)


def _with_errors(found: Samples, post: Posterior, observation: Observation, model: Model, config: Config) -> Samples:
    """The result of a latent with draws of the image on the footprint, which give all errors."""
    has_parts, draws = model.others is not None, found.draws
    assert draws is not None
    seen = jax.tree.map(np.asarray, _views(post, model.cut, jax.tree.map(jnp.asarray, found.x), has_parts))
    best = assemble(replace(found, chi2=float(seen["chi2"])), seen, None, observation, model, config)
    assert isinstance(best, Samples)
    cards = dict(best.cards)
    flux = np.asarray(draws, float).sum((1, 2))
    cards["FLUXERR"] = (float(flux.std(ddof=1)), "standard deviation of FLUX, from the draws")
    if has_parts:
        cards["SKYERR"] = (float(found.latent_std["sky"]), "standard deviation of SKY, from the draws")
    std = np.asarray(draws, float).std(0, ddof=1)
    return replace(best, std=std, no_std="", cards=cards, intervals=intervals_of(draws, config))


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
    drawn: dict[str, Any] | None,
    observation: Observation,
    model: Model,
    config: Config,
) -> Estimate | Samples:
    """The result of a solution (`views`) and of its draws (`DrawSummary`, stacked, with the means of the squares)."""
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
        cards["SKYERR"] = (float(np.sqrt(np.mean(drawn["sky"] ** 2))), "standard deviation of SKY")
    squares, prior = drawn["squares"], seen["prior"]
    best = replace(best, std=np.sqrt(squares["pixel"]), effective_dof=best.num_data - trace, cards=cards)
    if np.isfinite(prior["pixel"]):
        by_scale = 1 - squares["starlet"] / prior["starlet"][:, None, None]
        best = replace(best, contraction=1 - squares["pixel"] / prior["pixel"], contraction_starlet=by_scale)
    if config.method == "map":
        return best
    draws = seen["image"] + drawn["image"]
    sky = None if model.others is None else {"sky": (seen["sky"] + drawn["sky"])[None]}
    return Samples(**{**vars(best), "draws": draws, "intervals": intervals_of(draws, config), "latents": sky})
