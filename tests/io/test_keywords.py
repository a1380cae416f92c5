"""Records and their FITS keywords: every one has a meaning and a keyword, and what a run writes is in the map."""

import re

import pytest
from astropy.io import fits

from invprob.config import Config
from invprob.io.keywords import GROUPS, KEYWORDS, NUMBERED, cards_of, read_records
from invprob.io.read.cards import put
from invprob.pipeline.run import run
from invprob.results.report import VOCABULARY, Record, Report
from tests.small import HAND, write_image

OF_FITS = {"SIMPLE", "BITPIX", "NAXIS", "EXTEND", "CHECKSUM", "DATASUM", "COMMENT"}
RUNS = {
    "chains": {"compare_prior": "gaussian", "prior": "starlet", "method": "sample", "num_chains": 2,
                   "num_samples": 40, "num_warmup": 5, "fission_test": True},
    "hyperparameters": {"method": "sample", "strength": "sample", "noise_scale": "sample", "num_samples": 40,
                        "num_warmup": 5},
    "approximation": {**HAND, "method": "laplace", "num_samples": 400},
    "log-normal": {**HAND, "prior": "lognormal", "num_samples": 0, "max_steps": 3},
}  # fmt: skip


def test_every_record_has_a_keyword_and_a_meaning():
    assert list(KEYWORDS) == [name for group in GROUPS.values() for name in group]
    assert set(KEYWORDS) == set(VOCABULARY) and set(NUMBERED) <= set(KEYWORDS)
    assert len(set(KEYWORDS.values())) == len(KEYWORDS)
    for name, keyword in KEYWORDS.items():
        limit = 6 if name in NUMBERED else 8
        assert re.fullmatch(rf"[A-Z0-9]{{1,{limit}}}", keyword), keyword
        unit, meaning = VOCABULARY[name]
        ((_, _, comment),) = cards_of(Report([Record(name, 0.0, unit, meaning)]))
        assert meaning in comment and 0 < len(comment) <= 45, (name, "is cut off in a header")


def test_a_header_gives_the_records_back():
    report = Report.of(flux=2.5, in_range=False, target_fwhm=0.3, prior_name="it's", range_warnings=("a", "b"))
    header = fits.Header()
    for keyword, value, comment in cards_of(report):
        put(header, keyword, value, comment)
    assert header.comments["TARGET"].startswith("[arcsec] ") and header["RANGE2"] == "b"
    read = read_records(header, *(record.name for record in report), "chi2")
    assert {r.name: r.value for r in read} == {r.name: r.value for r in report}


def test_a_record_without_a_keyword_has_its_name():
    """As those of a prior that another package brings."""
    header = fits.Header()
    for keyword, value, comment in cards_of(Report([Record("dust_mass", 3.0, "g", "of the disc")])):
        put(header, keyword, value, comment)
    assert header["DUST_MASS"] == 3.0 and header.comments["DUST_MASS"] == "[g] of the disc"


@pytest.mark.parametrize("name", RUNS)
def test_every_card_of_a_run_is_in_the_map(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("invprob.pipeline.draws.NUM_FISSION", 20)
    write_image(tmp_path / "image.fits", bad=[(5, 6)])
    run(Config.make(**RUNS[name], input={"image": "image.fits"}), "out.fits")
    header = fits.getheader("out.fits")
    ours = [str(card.keyword) for card in header.cards]
    ours = ours[: ours.index("COMMENT")] if "COMMENT" in ours else ours
    known = {KEYWORDS[n] for n in KEYWORDS if n not in NUMBERED}
    numbered = "|".join(KEYWORDS[n] for n in NUMBERED)
    left = [k for k in ours if k not in known | OF_FITS and not re.fullmatch(rf"({numbered})\d+", k)]
    assert left == [] and len(known & set(ours)) > 25
