"""The names and axes that draws have for others."""

import numpy as np
import pytest

from invprob.errors import UsageError
from invprob.results import Samples, Status
from invprob.results.inference_data import facts, groups

CHAINS, DRAWS = 3, 10


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(CHAINS, DRAWS, *shape))


def samples(**more):
    kwargs = {"x": None, "status": Status.CONVERGED, "solver": "hmc", "reason": "", "steps": 30, "chi2": 4.0}
    return Samples(**(kwargs | {"num_data": 5, "num_chains": CHAINS} | more))


def dims(result):
    return {name: v.dims[2:] for name, v in groups(result)["posterior"].items() if name not in v.dims}


IMAGE = ("y", "x")


@pytest.mark.parametrize(
    ("latents", "names"),
    [
        (drawn(4, 5), {"image": IMAGE}),
        (drawn(6), {"latent": ("latent_dim_0",)}),
        (drawn(), {"latent": ()}),
        ({"image": drawn(4, 5), "sky": drawn()}, {"image": IMAGE, "sky": ()}),
        ({"diffuse": drawn(4, 5), "points": drawn(4, 5)}, {"diffuse": IMAGE, "points": IMAGE}),
        ({"x": drawn(4, 5), "y": drawn(2)}, {"image": IMAGE, "latent_y": ("latent_y_dim_0",)}),
        ({"a": drawn(4, 5), "b": drawn(2, 3)}, {"a": IMAGE, "b": ("b_dim_0", "b_dim_1")}),
        ({"theta": {"log_slope": drawn()}, "x": drawn(4, 5)}, {"image": IMAGE, "log_slope": ()}),
        (
            {"theta": {"sky": drawn()}, "x": {"sky": drawn(), "image": drawn(4, 5)}},
            {"theta_sky": (), "x_sky": (), "image": IMAGE},
        ),
        ([drawn(4, 5), drawn()], {"latent_0": IMAGE, "latent_1": ()}),
        ({"chain": drawn(), "not a word": drawn()}, {"latent_chain": (), "not_a_word": ()}),
        ({"a b": drawn(), "a_b": drawn(2)}, {"a_b": (), "a_b_": ("a_b__dim_0",)}),
    ],
)
def test_names_and_axes(latents, names):
    result = samples(latents=latents)
    assert dims(result) == names
    found = groups(result)["posterior"]
    for name in names:
        assert all(
            dim in found and len(found[dim].values) == n
            for dim, n in zip(found[name].dims, found[name].values.shape, strict=True)
        )


def test_images_beside_what_else_was_drawn():
    """As `deconvolve` gives them: images chain after chain, the sky by chains, and hyperparameters."""
    image, sky, slope = drawn(4, 5), drawn(seed=1), drawn(seed=2)
    result = samples(draws=image.reshape(-1, 4, 5), latents={"sky": sky}, hyper={"log_slope": slope})
    found = groups(result)["posterior"]
    np.testing.assert_array_equal(found["image"].values, image)
    np.testing.assert_array_equal(found["sky"].values, sky)
    np.testing.assert_array_equal(found["log_slope"].values, slope)
    assert dims(result) == {"image": IMAGE, "sky": (), "log_slope": ()}


def test_the_image_is_not_there_twice():
    image = drawn(4, 5)
    assert set(dims(samples(latents=image, draws=image.reshape(-1, 4, 5)))) == {"image"}


def test_thinning_keeps_the_numbers_of_the_draws():
    image, energy = drawn(4, 5), drawn(seed=1)
    result = samples(latents=image, stats={"energy": energy}, every=2)
    found = groups(result, 3)
    np.testing.assert_array_equal(found["posterior"]["image"].values, image[:, 2::3])
    np.testing.assert_array_equal(found["sample_stats"]["energy"].values, energy[:, 2::3])
    for group in found.values():
        np.testing.assert_array_equal(group["draw"].values, [5, 11, 17])
    assert facts(result, 3)["thinning"] == 6
    np.testing.assert_array_equal(groups(result)["posterior"]["draw"].values, np.arange(1, 20, 2))


def test_what_is_said():
    said = facts(samples(latents=drawn(), failures=("R-hat", "ESS"), bias="step size", chi2=float("nan")))
    assert (said["convergence_check"], said["bias"], said["status"]) == ("R-hat; ESS", "step size", "CONVERGED")
    assert "chi2" not in said
    assert facts(samples(latents=drawn()))["convergence_check"] == "none: independent draws"
    assert facts(samples(latents=drawn(), quality=object()))["convergence_check"] == "passed"


@pytest.mark.parametrize(
    ("result", "every", "words"),
    [
        (samples(), 1, "holds no draws"),
        (samples(latents=drawn()[:, :0]), 1, "holds no draws"),
        (samples(latents=drawn()), 11, "every = 11 keeps no draw of 10 in each chain"),
        (samples(latents=drawn()), 0, "every = 0 keeps no draw"),
        (samples(draws=np.zeros((8, 2, 2))), 1, "8 draws are not those of 3 chains"),
    ],
)
def test_refused(result, every, words):
    with pytest.raises(UsageError, match=words):
        groups(result, every)
