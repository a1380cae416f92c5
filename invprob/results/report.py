"""What an inference says of itself: typed records with a name, a value, a unit and a meaning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Value = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """One fact about a result.

    Parameters
    ----------
    name
        An identifier, such as ``"flux_std"``.
    value
        A number, a truth value, a text or several texts.
    unit
        Its unit, empty where it has none or that of the image.
    meaning
        What it is, in one line.
    """

    name: str
    value: Value
    unit: str = ""
    meaning: str = ""


class Report:
    """Records by name, in the order in which they were made.

    ``report.flux`` is the value of the record ``"flux"``, ``report["flux"]`` the record itself, ``report.get("flux")``
    the value or None, ``"flux" in report`` whether it is there, and ``a | b`` has the records of both; those of ``b``
    replace those of ``a``. Iterating gives the records.

    Examples
    --------
    >>> report = Report.of(flux=10.0) | Report.of(flux_std=0.5)
    >>> report.flux_std
    0.5
    >>> report["flux"].meaning
    'sum of the image over the footprint'
    """

    __slots__ = ("_records",)

    def __init__(self, records: Iterable[Record] = ()):
        self._records = {record.name: record for record in records}

    @classmethod
    def of(cls, **values: Value) -> Report:
        """Records of the vocabulary, with the unit and the meaning that stand there.

        Raises
        ------
        KeyError
            When a name is not in `VOCABULARY`.
        """
        return cls(Record(name, value, *VOCABULARY[name]) for name, value in values.items())

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __getitem__(self, name: str) -> Record:
        return self._records[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_records":  # asked for by copy and pickle before there are records
            raise AttributeError(name)
        try:
            return self._records[name].value
        except KeyError:
            there = ", ".join(self._records) or "none"
            raise AttributeError(f"this report has no record {name!r}; there are {there}") from None

    def get(self, name: str, default: Any = None) -> Any:
        """Value of a record, or the default where it is not there."""
        return self._records[name].value if name in self._records else default

    def __or__(self, other: Report) -> Report:
        return Report((self._records | other._records).values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self._records == other._records

    def __repr__(self) -> str:
        return f"Report({', '.join(f'{record.name}={record.value!r}' for record in self)})"

    def __getstate__(self) -> dict[str, Record]:
        return self._records

    def __setstate__(self, records: dict[str, Record]) -> None:
        self._records = records


# name -> (unit, meaning); the empty unit is none, or that of the image
VOCABULARY: dict[str, tuple[str, str]] = {
    # run
    "program": ("", "Bayesian deconvolution"),
    "version": ("", "version of invprob"),
    "file_format": ("", "version of the layout of this file"),
    "refine": ("", "latent pixels on a side of a data pixel"),
    "status": ("", "how the run ended"),
    "advice": ("", "the status in words"),
    "solver": ("", "algorithm"),
    "reason": ("", "why it was chosen"),
    "steps": ("", "steps taken"),
    "gap": ("", "distance from the optimum"),
    "seed": ("", "seed of the random numbers"),
    "device": ("", "where it was computed"),
    "python_version": ("", "version of Python"),
    "jax_version": ("", "version of jax"),
    "jaxlib_version": ("", "version of jaxlib"),
    "equinox_version": ("", "version of equinox"),
    "lineax_version": ("", "version of lineax"),
    "optax_version": ("", "version of optax"),
    "numpy_version": ("", "version of numpy"),
    "astropy_version": ("", "version of astropy"),
    "input_role": ("", "what an input is"),
    "input_file": ("", "its file"),
    "input_extension": ("", "its extension"),
    "input_sha256": ("", "SHA-256 of its file"),
    "configuration_sha256": ("", "SHA-256 of the configuration"),
    "configuration": ("", "the configuration, as JSON"),
    "warnings": ("", "what had to be assumed, or looks wrong"),
    # data and fit
    "noise_source": ("", "where the noise is from"),
    "chi2": ("", "sum of the squared residuals in sigmas"),
    "num_data": ("", "valid data"),
    "reduced_chi2": ("", "chi-square per valid datum"),
    "effective_dof": ("", "effective degrees of freedom"),
    "chi2_per_dof": ("", "chi-square per effective degree of freedom"),
    "fit_trace": ("", "trace of the fit, from the draws"),
    "fit_p_value": ("", "p of residuals as large, of a right model"),
    "fit_p_chi2": ("", "p of their chi-square"),
    "fit_p_matched": ("", "p of all of them as wide as the PSF"),
    "fit_p_peak": ("", "p of the largest as wide as the PSF"),
    "peak_residual": ("sigma", "largest residual as wide as the PSF"),
    "peak_residual_x": ("", "its column of the data, from 1"),
    "peak_residual_y": ("", "its row of the data, from 1"),
    "heldout_p_value": ("", "p of half of the data, given the other half"),
    "heldout_p_chi2": ("", "p of its chi-square"),
    "heldout_p_matched": ("", "p of its structure as wide as the PSF"),
    # image
    "flux": ("", "sum of the image over the footprint"),
    "flux_std": ("", "standard deviation of the flux"),
    "sky": ("", "fitted sky level per data pixel"),
    "sky_std": ("", "standard deviation of the sky level"),
    "no_std": ("", "how to get errors"),
    "num_draws": ("", "draws behind the errors"),
    # prior and strength
    "prior_name": ("", "prior on the image"),
    "prior_amplitude": ("", "A of P(k) = A (1 + (k/k0)^2)^(-a/2)"),
    "prior_amplitude_p16": ("", "16 % of the draws of A are below"),
    "prior_amplitude_p84": ("", "84 % of the draws of A are below"),
    "prior_break": ("", "k0 of P(k), cycles per latent pixel"),
    "prior_break_p16": ("", "16 % of the draws of k0 are below"),
    "prior_break_p84": ("", "84 % of the draws of k0 are below"),
    "prior_slope": ("", "a of P(k)"),
    "prior_slope_p16": ("", "16 % of the draws of a are below"),
    "prior_slope_p84": ("", "84 % of the draws of a are below"),
    "prior_log_mean": ("", "mean of the logarithm of a latent pixel"),
    "prior_strength": ("", "strength of the prior, in units of the noise"),
    "prior_strength_p16": ("", "16 % of the draws of it are below"),
    "prior_strength_p84": ("", "84 % of the draws of it are below"),
    "strength_choice": ("", "how the strength of the prior was chosen"),
    "log_evidence": ("", "log evidence at the strength"),
    "noise_factor": ("", "factor of the sigma of the noise, median"),
    "noise_factor_p16": ("", "16 % of the draws of it are below"),
    "noise_factor_p84": ("", "84 % of the draws of it are below"),
    "psf_width_factor": ("", "factor of the width of the PSF, median"),
    "psf_width_factor_p16": ("", "16 % of the draws of it are below"),
    "psf_width_factor_p84": ("", "84 % of the draws of it are below"),
    "floor": ("", "lowest value of a pixel of the image"),
    # learned priors
    "weights_sha256": ("", "SHA-256 of the weights of the prior"),
    "model_card_sha256": ("", "SHA-256 of the model card of the prior"),
    "flux_scale": ("", "unit of flux in that of the training set"),
    "in_range": ("", "whether the image is like the training set"),
    "range_warnings": ("", "in what it is unlike the training set"),
    "target_fwhm": ("arcsec", "FWHM of the PSF left in the image"),
    "prior_calibration": ("", "calibration of draws under this prior"),
    "asymmetry": ("", "rotational asymmetry of the brightest object"),
    "asymmetry_share": ("", "part of the training set as asymmetric"),
    # draws and approximations
    "sampler": ("", "how the draws were made"),
    "num_chains": ("", "chains"),
    "num_samples": ("", "draws of all chains"),
    "bias": ("", "what keeps the draws from the posterior"),
    "max_rhat": ("", "largest rank-normalized R-hat"),
    "min_ess_bulk": ("", "smallest bulk effective sample size"),
    "min_ess_tail": ("", "smallest tail effective sample size"),
    "min_ebfmi": ("", "smallest E-BFMI of a chain"),
    "num_divergent": ("", "divergent transitions"),
    "convergence_check": ("", "what failed, or 'passed'"),
    "approximation": ("", "approximation of the posterior"),
    "laplace_log_evidence": ("", "Laplace's log evidence"),
    "laplace_log_evidence_error": ("", "error of its log-determinant"),
    "elbo": ("", "lower bound on the log evidence"),
    "elbo_error": ("", "Monte-Carlo error of the bound"),
    "khat": ("", "tail of the importance weights of the draws"),
    "khat_threshold": ("", "largest k-hat that can be relied on"),
    "draws_store": ("", "store of all draws"),
    "draws_thinning": ("", "one draw in so many of a chain is in DRAWS"),
    # comparison and calibration
    "compare_prior": ("", "the other prior of COMPARED"),
    "compare_rms": ("", "root mean square of COMPARED"),
    "compare_max": ("", "largest absolute value of COMPARED"),
    "calibration_sha256": ("", "SHA-256 of the calibration card"),
    "calibration_passed": ("", "whether it passed"),
    "calibration_cases": ("", "simulated data sets behind it"),
}
