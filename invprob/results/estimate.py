"""What an inference gives: `Estimate` (one best image, perhaps with errors) and `Samples` (draws)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from invprob.results.report import Report

if TYPE_CHECKING:  # importing PyTree would import JAX
    from jaxtyping import PyTree
    from xarray import DataTree

    from invprob.diagnostics.convergence import ChainDiagnostics


class Status(Enum):
    """How a run ended. The value is the advice to the user."""

    CONVERGED = "converged"
    STOPPED = "stopped by the rule that was given, before the optimum: its gap is in the history"
    MAX_STEPS = "stopped at the largest number of steps: raise max_steps, or loosen rtol if the gap shown is enough"
    STALLED = "no further progress at this precision: use float64, or accept the gap shown"
    NOT_FINITE = "a value was not finite: check the variance and the PSF for zeros and infinities"
    NOT_MIXED = "the chains have not mixed: do not use these errors; run longer (num_samples, num_warmup)"
    NOT_RELIABLE = "the approximation does not fit: do not use these errors; take another family, more steps, or sample"
    INTERRUPTED = "interrupted: the last state is kept; run again with the checkpoint to go on"

    @property
    def ok(self) -> bool:
        """Whether the result is what was asked for."""
        return self is Status.CONVERGED


@dataclass(frozen=True)
class Estimate:
    """A best latent image, with what is known of its quality.

    Parameters
    ----------
    x
        The latent pytree, on the whole grid with its border.
    status
        How the run ended.
    solver, reason
        Which algorithm ran, and why it was chosen.
    steps
        Steps taken.
    chi2
        Sum of the squared residuals in sigmas over the valid data.
    num_data
        Number of valid data.
    history
        One mapping for each progress line.
    image, std
        The latent image and its standard deviation on the data's footprint, flux per latent pixel. ``std`` is None
        where the method gives no error; `no_std` then says how to get one.
    contraction
        ``1 - variance / variance under the prior`` of each pixel: near one where the data say what is there, near zero
        (or, by the scatter of the draws, below) where the prior does. None where the prior has no variance.
    comparison
        Image less that of another prior, in units of their errors; None where it was not asked for.
    contraction_starlet
        The same for the coefficients of the image in `invprob.operators.Starlet`, finest scale first and all that is
        smoother last: which structure the data know about, at which scale and where. With exact draws.
    parts
        The images whose sum ``image`` is, by name, where the prior describes several; empty otherwise.
    model
        Noiseless data predicted by x, on the data grid.
    residual
        ``(data - model) / sigma`` on the data grid, NaN where no valid datum is.
    inpainted
        True where a latent pixel lies under no valid datum, on the footprint.
    kernel
        The PSF on the latent grid's pixel, None without a PSF.
    effective_dof
        Number of valid data less the trace of the fit; None where there are no draws.
    frame
        The latent `Frame` with its border.
    report
        What is said of the result: its flux, its prior, its fit, its convergence.
    """

    x: PyTree
    status: Status
    solver: str
    reason: str
    steps: int
    chi2: float
    num_data: int
    history: tuple[Mapping[str, float], ...] = ()
    image: Float[np.ndarray, "y x"] | None = None
    std: Float[np.ndarray, "y x"] | None = None
    no_std: str = ""
    contraction: Float[np.ndarray, "y x"] | None = None
    contraction_starlet: Float[np.ndarray, "scale y x"] | None = None
    comparison: Float[np.ndarray, "y x"] | None = None
    parts: Mapping[str, Float[np.ndarray, "y x"]] = field(default_factory=dict)
    model: Float[np.ndarray, "Y X"] | None = None
    residual: Float[np.ndarray, "Y X"] | None = None
    inpainted: np.ndarray | None = None
    kernel: Float[np.ndarray, "ky kx"] | None = None
    effective_dof: float | None = None
    frame: Any = None
    report: Report = field(default_factory=Report)

    @property
    def reduced_chi2(self) -> float:
        """Chi-square per valid datum."""
        return self.chi2 / max(self.num_data, 1)


@dataclass(frozen=True)
class Samples(Estimate):
    """Draws of the posterior; the fields of `Estimate` describe their mean and standard deviation.

    Parameters
    ----------
    draws
        The latent image of each draw on the footprint, shape ``(draw, y, x)``; None where the latent is not one image.
    intervals
        Ends of central intervals of each pixel, ``"LOW68"`` and ``"HIGH68"`` for 68 %.
    latents
        Pytree of draws as the sampler gives them, with the leading axes ``(chain, draw)``; of `deconvolve` what was
        drawn beside the image (the sky level), None where nothing was.
    latent_std
        Pytree of standard deviations, like ``x``.
    quality
        How well the chains mix; None for independent draws, which need not.
    failures
        What keeps the draws from being trusted, one line each.
    bias
        What keeps the sampler from the posterior however long it runs; empty for an exact one.
    hyper
        Draws ``(chain, draw)`` of hyperparameters that were sampled with the image, by name.
    gradients
        Gradients of the log-density that all chains took, warm-up included; 0 for independent draws.
    num_chains
        Chains that the draws come from, one after the other in ``draws``; one where the draws are independent.
    every
        One draw of each chain in so many is held.
    stats
        What is known of each draw, ``(chain, draw)``, by ArviZ's names: ``"acceptance_rate"``, ``"diverging"`` and, of
        Hamiltonian samplers, ``"energy"``; empty for independent draws.
    """

    draws: Float[np.ndarray, "draw y x"] | None = None
    intervals: Mapping[str, Float[np.ndarray, "y x"]] = field(default_factory=dict)
    latents: PyTree = None
    latent_std: PyTree = None
    quality: ChainDiagnostics | None = None
    failures: tuple[str, ...] = ()
    bias: str = ""
    hyper: Mapping[str, Float[np.ndarray, "chain draw"]] = field(default_factory=dict)
    gradients: int = 0
    num_chains: int = 1
    every: int = 1
    stats: Mapping[str, Shaped[np.ndarray, "chain draw"]] = field(default_factory=dict)

    def to_arviz(self, every: int = 1) -> DataTree:
        """The draws as ArviZ takes them.

        Parameters
        ----------
        every
            Keep one draw of each chain in so many.

        Returns
        -------
        xarray.DataTree
            Group ``posterior`` with the axes ``(chain, draw, y, x)`` for an image and ``(chain, draw)`` for a number;
            ``sample_stats`` with `stats`, where there are any. Independent draws are one chain. See
            `invprob.results.inference_data.groups` for the names.

        Raises
        ------
        ImportError
            Without the packages of the extra ``arviz``.
        UsageError
            When there are no draws, or fewer than ``every``.
        """
        try:
            import xarray
        except ImportError:
            raise ImportError("to_arviz needs xarray: pip install 'invprob[arviz]'") from None
        from invprob.results.inference_data import facts, groups

        tree = xarray.DataTree.from_dict(
            {
                name: xarray.Dataset({key: (found.dims, found.values) for key, found in group.items()})
                for name, group in groups(self, every).items()
            }
        )
        for node in (tree, tree["posterior"]):
            node.attrs.update(facts(self, every))
        return tree
