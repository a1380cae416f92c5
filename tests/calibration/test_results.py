"""The card: what it says, that it can be read again, and that it cannot be changed unnoticed."""

import hashlib
import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from invprob.calibration import Calibration, Check, PureDraw, calibrate
from invprob.errors import InputError, OutputError, UsageError
from invprob.plot.calibration import plot_calibration
from tests.calibration.worlds import DenseDraws, world
from tests.test_import import loaded


@pytest.fixture(scope="module")
def good():
    post = world(side=8)
    return calibrate(post, PureDraw(DenseDraws.of(post)), jax.random.key(0), num_cases=20, num_draws=19)


def failed(calibration, *names):
    """The same calibration, some of whose tests failed, each more than the one before."""
    p_values = {name: 1e-5 / (i + 1) for i, name in enumerate(names)}
    checks = tuple(
        replace(c, p_value=p_values[c.name], corrected=10 * p_values[c.name]) if c.name in p_values else c
        for c in calibration.checks
    )
    return replace(calibration, checks=checks)


def test_what_caught_it(good):
    assert good.passed and good.caught_by == ()
    bad = failed(good, "flux", "TARP")
    assert not bad.passed
    assert bad.caught_by == ("TARP", "flux")  # the most significant first
    assert not bad.check("flux").passed and bad.check("size").passed
    assert Check("x", "rank", 0.5, 0.01, 0.0100001).passed
    assert not Check("x", "rank", 0.5, 0.01, 0.01).passed


def test_the_card_can_be_read_again(good):
    assert Calibration.from_json(good.to_json()) == good
    assert Calibration.from_json(json.dumps(json.loads(good.to_json()), indent=2)) == good


def test_the_card_is_canonical_and_has_its_hash(good):
    text = good.to_json()
    card = json.loads(text)
    assert text == json.dumps(card, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    said = card.pop("sha256")
    rest = json.dumps(card, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert said == good.sha256 == hashlib.sha256(rest.encode()).hexdigest()
    assert failed(good, "flux").sha256 != said


def test_what_the_card_says(good):
    card = json.loads(failed(good, "flux").to_json())
    assert card["passed"] is False and card["caught_by"] == ["flux"] and card["alpha"] == 0.01
    assert (card["num_cases"], card["num_draws"]) == (20, 19)
    assert len(card["ranks"]["flux"]) == 20
    assert set(card["versions"]) == {"invprob", "jax", "numpy", "scipy"}
    assert card["settings"]["prior"] == "GaussianField"
    assert card["settings"]["sampler"] == "DenseDraws"
    assert card["settings"]["analysed"] == "as simulated"
    assert card["settings"]["num_data"] < 64
    for check in card["checks"]:
        assert set(check) == {"name", "kind", "statistic", "p_value", "corrected"}
    assert {c["kind"] for c in card["checks"]} == {"rank", "coverage", "TARP", "residual"}
    pixels = next(c for c in card["coverages"] if c["name"] == "pixels" and c["level"] == 0.68)
    assert abs(pixels["value"] - 0.68) < 4 * pixels["error"]


def test_a_card_that_was_changed(good):
    card = json.loads(failed(good, "flux").to_json())
    flux = next(c for c in card["checks"] if c["name"] == "flux")
    flux["corrected"] = 1.0
    with pytest.raises(InputError, match="it was changed after it was written"):
        Calibration.from_json(json.dumps(card))


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"checks": 3}', "null"])
def test_what_is_no_card(text):
    with pytest.raises(InputError, match="no calibration card of format 1"):
        Calibration.from_json(text)


def test_the_file(good, tmp_path):
    path = tmp_path / "card.json"
    good.write(path)
    assert path.read_text() == good.to_json() + "\n"
    assert Calibration.from_json(path.read_text()) == good
    with pytest.raises(OutputError, match="exists already"):
        good.write(path)
    failed(good, "flux").write(path, overwrite=True)
    assert not Calibration.from_json(path.read_text()).passed
    with pytest.raises(OutputError, match="does not exist"):
        good.write(tmp_path / "nowhere" / "card.json")
    assert list(tmp_path.iterdir()) == [path]


def test_the_tables_for_people(good):
    text = failed(good, "flux").markdown()
    assert "20 cases of 19 draws: caught by flux" in text
    assert "| TARP | TARP |" in text and "| pixels | 68 % |" in text
    assert "20 cases of 19 draws: passed" in good.markdown()


# --- the picture -----------------------------------------------------------------------------------------------


def panels(figure):
    return {axes.get_title(loc="center") or axes.get_title(loc="right"): axes for axes in figure.get_axes()}


def test_the_picture(good, tmp_path):
    path = tmp_path / "card.png"
    bad = failed(good, "flux", "pixels, coverage 68 %")
    figure = plot_calibration(Calibration.from_json(bad.to_json()), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert figure.get_suptitle() == "Not calibrated: 20 cases of 19 draws, 2 of 24 tests failed"
    shown = panels(figure)
    assert len(shown) == 4
    ranks = {line.get_label(): line for line in shown["Ranks of the summaries"].get_lines()}
    assert {"flux (failed)", "size", "e1"} <= set(ranks)
    below = [np.mean(np.array(bad.ranks["size"]) < k) - k / 20 for k in range(21)]
    np.testing.assert_allclose(ranks["size"].get_ydata(), below, atol=1e-12)
    labels = [text.get_text() for text in shown["Coverage of groups"].get_legend().get_texts()]
    assert "pixels (failed)" in labels and "starlet scale 1" in labels
    names = [label.get_text() for label in shown["All tests: ● at 0.01 or less fails"].get_yticklabels()]
    assert names == [check.name for check in bad.checks[::-1]]
    with pytest.raises(OutputError, match="exists already"):
        plot_calibration(good, path)
    with pytest.raises(UsageError, match="matplotlib cannot write 'json'"):
        plot_calibration(good, tmp_path / "card.json")


def test_the_picture_of_groups_alone(good):
    checks = tuple(check for check in good.checks if check.kind in ("coverage", "residual"))
    ranks = {name: ranks for name, ranks in good.ranks.items() if "coverage" in name}
    figure = plot_calibration(replace(good, checks=checks, ranks=ranks))
    assert figure.get_suptitle() == f"Calibrated: 20 cases of 19 draws, all {len(checks)} tests passed"


def test_no_picture_is_loaded_before_it_is_drawn():
    found = loaded("import invprob.calibration")
    assert "jax" in found
    assert not {"matplotlib", "astropy", "tensorflow_probability"} & set(found)
