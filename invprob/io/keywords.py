"""FITS keywords of the records of a report: the one place that knows both."""

from __future__ import annotations

from typing import Any

from invprob.io.read.cards import unescape
from invprob.results.report import VOCABULARY, Report

GROUPS: dict[str, dict[str, str]] = {
    "Run": {
        "program": "PROGRAM",
        "version": "VERSION",
        "file_format": "FORMAT",
        "refine": "REFINE",
        "status": "STATUS",
        "advice": "STATTXT",
        "solver": "SOLVER",
        "reason": "REASON",
        "steps": "STEPS",
        "gap": "GAP",
        "seed": "SEED",
        "device": "DEVICE",
        "python_version": "PYVERS",
        "jax_version": "VERJAX",
        "jaxlib_version": "VERJAXLB",
        "equinox_version": "VEREQX",  # not EQUINOX: that keyword is the equinox of the sky coordinates
        "lineax_version": "VERLINEX",
        "optax_version": "VEROPTAX",
        "numpy_version": "VERNUMPY",
        "astropy_version": "VERASTRO",
        "input_role": "INROLE",
        "input_file": "INFILE",
        "input_extension": "INEXT",
        "input_sha256": "INSHA",
        "configuration_sha256": "CONFHASH",
        "configuration": "CONFIG",
        "warnings": "WARN",
    },
    "Data and fit": {
        "noise_source": "NOISESRC",
        "chi2": "CHI2",
        "num_data": "NDATA",
        "reduced_chi2": "REDCHI2",
        "effective_dof": "EDOF",
        "chi2_per_dof": "CHI2EDOF",
        "fit_trace": "FITTRACE",
        "fit_p_value": "FITPVAL",
        "fit_p_chi2": "FITCHI2",
        "fit_p_matched": "FITMATCH",
        "fit_p_peak": "FITPEAK",
        "peak_residual": "RESPEAK",
        "peak_residual_x": "RESPEAKX",
        "peak_residual_y": "RESPEAKY",
        "heldout_p_value": "HELDPVAL",
        "heldout_p_chi2": "HELDCHI2",
        "heldout_p_matched": "HELDMTCH",
    },
    "Image": {
        "flux": "FLUX",
        "flux_std": "FLUXERR",
        "sky": "SKY",
        "sky_std": "SKYERR",
        "no_std": "NOERR",
        "num_draws": "NDRAWS",
    },
    "Prior and strength": {
        "prior_name": "PRIOR",
        "prior_amplitude": "PRIORAMP",
        "prior_amplitude_p16": "AMP16",
        "prior_amplitude_p84": "AMP84",
        "prior_break": "PRIORSCL",
        "prior_break_p16": "SCL16",
        "prior_break_p84": "SCL84",
        "prior_slope": "PRIORSLP",
        "prior_slope_p16": "SLP16",
        "prior_slope_p84": "SLP84",
        "prior_log_mean": "PRIORMU",
        "prior_strength": "PRIORSTR",
        "prior_strength_p16": "STR16",
        "prior_strength_p84": "STR84",
        "strength_choice": "STRENGTH",
        "log_evidence": "LOGEVID",
        "noise_factor": "NOISEFAC",
        "noise_factor_p16": "FAC16",
        "noise_factor_p84": "FAC84",
        "psf_width_factor": "PSFWID",
        "psf_width_factor_p16": "WID16",
        "psf_width_factor_p84": "WID84",
        "floor": "FLOOR",
    },
    "Learned priors": {
        "weights_sha256": "PRIORSHA",
        "model_card_sha256": "MODLCARD",
        "flux_scale": "FLUXSCAL",
        "in_range": "INRANGE",
        "range_warnings": "RANGE",
        "target_fwhm": "TARGET",
        "prior_calibration": "PRIORCAL",
        "asymmetry": "ASYMM",
        "asymmetry_share": "ASYMMP",
    },
    "Draws and approximations": {
        "sampler": "SAMPLER",
        "num_chains": "NCHAINS",
        "num_samples": "NSAMPLES",
        "bias": "BIAS",
        "max_rhat": "RHAT",
        "min_ess_bulk": "ESSBULK",
        "min_ess_tail": "ESSTAIL",
        "min_ebfmi": "EBFMI",
        "num_divergent": "NDIVERG",
        "convergence_check": "CONVCHK",
        "approximation": "APPROX",
        "laplace_log_evidence": "LAPEVID",
        "laplace_log_evidence_error": "LAPERR",
        "elbo": "ELBO",
        "elbo_error": "ELBOERR",
        "khat": "KHAT",
        "khat_threshold": "KHATMAX",
        "draws_store": "DRAWSTOR",
        "draws_thinning": "DRAWTHIN",
    },
    "Comparison and calibration": {
        "compare_prior": "CMPPRIOR",
        "compare_rms": "CMPRMS",
        "compare_max": "CMPMAX",
        "calibration_sha256": "CALHASH",
        "calibration_passed": "CALPASS",
        "calibration_cases": "CALCASES",
    },
}
"""Name of a record, and its keyword, by what they are about; a record of several texts has one card for each, numbered
from one."""
KEYWORDS = {name: keyword for group in GROUPS.values() for name, keyword in group.items()}
NUMBERED = ("input_role", "input_file", "input_extension", "input_sha256", "warnings", "range_warnings")
"""Records of several texts."""


def cards_of(report: Report) -> list[tuple[str, Any, str]]:
    """Keyword, value and comment of each record.

    What has no keyword of its own (a record of a prior that another package brings) has a HIERARCH one of its name.
    """
    cards = []
    for record in report:
        keyword = KEYWORDS.get(record.name, f"HIERARCH {record.name.upper()}")
        comment = f"[{record.unit}] {record.meaning}" if record.unit else record.meaning  # as is the custom
        if isinstance(record.value, tuple):
            cards += [(f"{keyword}{number}", value, comment) for number, value in enumerate(record.value, 1)]
        else:
            cards.append((keyword, record.value, comment))
    return cards


def read_records(header: Any, *names: str) -> Report:
    """The records of these names that a header has, whose texts are unescaped."""
    found = Report()
    for name in names:
        values = []
        if name in NUMBERED:
            while (value := header.get(f"{KEYWORDS[name]}{len(values) + 1}")) is not None:
                values.append(unescape(value))
            found |= Report.of(**{name: tuple(values)})
        elif (value := header.get(KEYWORDS[name])) is not None:
            found |= Report.of(**{name: unescape(value) if isinstance(value, str) else value})
    return found


def table() -> str:
    """All keywords as Markdown tables, for the documentation."""
    lines = []
    for title, names in GROUPS.items():
        lines += ["", f"## {title}", "", "| keyword | meaning | unit | record |", "|---|---|---|---|"]
        for name, keyword in names.items():
            unit, meaning = VOCABULARY[name]
            number = "n" if name in NUMBERED else ""
            lines.append(f"| `{keyword}{number}` | {meaning} | {unit} | `{name}` |")
    return "\n".join(lines) + "\n"


__all__ = ["GROUPS", "KEYWORDS", "NUMBERED", "cards_of", "read_records", "table"]
