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
    'sum of the image over the footprint of the data'
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


# name -> (unit, meaning)
VOCABULARY: dict[str, tuple[str, str]] = {
    # prior and strength
    "prior_name": ("", "prior on the image"),
    "prior_amplitude": ("", "A of P(k) = A (1 + (k/k0)^2)^(-a/2)"),
    "prior_amplitude_p16": ("", "16 % of the draws of A are below"),
    "prior_amplitude_p84": ("", "84 % of the draws of A are below"),
    "prior_break": ("cycles per latent pixel", "k0 of P(k)"),
    "prior_break_p16": ("cycles per latent pixel", "16 % of the draws of k0 are below"),
    "prior_break_p84": ("cycles per latent pixel", "84 % of the draws of k0 are below"),
    "prior_slope": ("", "a of P(k)"),
    "prior_slope_p16": ("", "16 % of the draws of a are below"),
    "prior_slope_p84": ("", "84 % of the draws of a are below"),
    "prior_log_mean": ("", "mean of the logarithm of a latent pixel"),
    "prior_strength": ("", "strength of the prior, in the noise of the data"),
    "prior_strength_p16": ("", "16 % of the draws of the strength are below"),
    "prior_strength_p84": ("", "84 % of the draws of the strength are below"),
    "strength_choice": ("", "how the strength of the prior was chosen"),
    "log_evidence": ("", "log evidence at the strength"),
    "noise_factor": ("", "factor of the standard deviation of the noise, median"),
    "noise_factor_p16": ("", "16 % of the draws of the factor are below"),
    "noise_factor_p84": ("", "84 % of the draws of the factor are below"),
    "psf_width_factor": ("", "factor of the width of the PSF, median"),
    "psf_width_factor_p16": ("", "16 % of the draws of the factor are below"),
    "psf_width_factor_p84": ("", "84 % of the draws of the factor are below"),
    "floor": ("", "lowest value of a pixel of the image"),
    # learned priors
    "weights_sha256": ("", "SHA-256 of the weights of the learned prior"),
    "model_card_sha256": ("", "SHA-256 of the model card of the learned prior"),
    "flux_scale": ("", "one unit of flux in that of the training set"),
    "in_range": ("", "whether the image is like the training set"),
    "range_warnings": ("", "in what the image is unlike the training set"),
    "target_fwhm": ("arcsec", "FWHM of the PSF that the image still has"),
    "prior_calibration": ("", "calibration of draws under this prior"),
    "asymmetry": ("", "rotational asymmetry of the brightest object"),
    "asymmetry_share": ("", "part of the training set that is as asymmetric"),
    # image
    "flux": ("", "sum of the image over the footprint of the data"),
}
