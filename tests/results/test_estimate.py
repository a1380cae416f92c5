"""`Samples.to_arviz`: what ArviZ makes of the draws is what we make of them."""

import sys

import arviz_stats
import jax
import numpy as np
import pytest

from invprob import priors
from invprob.posterior import Posterior
from invprob.sampling.sample import sample
from invprob.sampling.samplers import HMC
from tests.problems import masked_problem


@pytest.fixture(scope="module")
def chains():
    base = masked_problem(side=3)
    post = Posterior(base.likelihood, priors.TotalVariation(base.structure.shape, 2.0))
    return sample(post, jax.random.key(0), 400, HMC(num_warmup=60))


def test_arviz_agrees_on_how_well_the_chains_mix(chains):
    tree, ours = chains.to_arviz(), chains.quality.groups["pixels"]
    theirs = {
        "rhat": arviz_stats.rhat(tree),
        "bulk_ess": arviz_stats.ess(tree, method="bulk"),
        "tail_ess": arviz_stats.ess(tree, method="tail", prob=(0.05, 0.95)),
    }
    for name, found in theirs.items():
        np.testing.assert_allclose(found["image"].values.ravel(), getattr(ours, name), rtol=1e-4)
    np.testing.assert_allclose(arviz_stats.bfmi(tree)["energy"], chains.quality.e_bfmi, rtol=1e-3)


def test_the_tree_holds_the_draws_and_what_is_known_of_them(chains):
    tree = chains.to_arviz(every=7)
    assert set(tree.children) == {"posterior", "sample_stats"}
    assert tree["posterior"]["image"].dims == ("chain", "draw", "y", "x")
    np.testing.assert_array_equal(tree["posterior"]["image"], chains.latents[:, 6::7])
    np.testing.assert_array_equal(tree["posterior"]["draw"], np.arange(6, 100, 7))
    assert set(tree["sample_stats"].data_vars) == {"acceptance_rate", "diverging", "energy"}
    assert tree["sample_stats"]["diverging"].dtype == bool
    assert tree["sample_stats"]["diverging"].sum() == chains.stats["diverging"][:, 6::7].sum()
    for node in (tree, tree["posterior"]):
        assert (node.attrs["solver"], node.attrs["thinning"]) == ("hmc", 7)
        assert node.attrs["status"] == chains.status.name


def test_without_xarray_it_says_what_to_install(chains, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"pip install 'invprob\[arviz\]'"):
        chains.to_arviz()
