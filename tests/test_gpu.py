"""What must hold on a GPU as on a CPU; skipped, with the reason, where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import invprob as ip
from invprob.optimize.solvers import ConjugateGradient
from tests.benchmarks.gpu import problem

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("no GPU on this machine")


def test_the_map_is_that_of_the_cpu(gpu):
    here = ip.find_map(problem(256, 1, gpu), rtol=1e-6)
    there = ip.find_map(problem(256, 1, jax.devices("cpu")[0]), rtol=1e-6)
    assert here.status.ok
    assert next(iter(here.x.devices())).platform == "gpu"
    assert np.abs(np.asarray(here.x) - np.asarray(there.x)).max() < 1e-3 * np.abs(np.asarray(there.x)).max()


def test_stamps_under_vmap_are_those_alone(gpu):
    alone = [problem(108, i, gpu) for i in range(4)]
    posts = jax.tree.map(lambda *a: jnp.stack(a), *alone)
    together = jax.jit(jax.vmap(lambda post: ip.optimize.solve(post, ConjugateGradient(rtol=1e-6)).x))(posts)
    for i, post in enumerate(alone):
        x = np.asarray(ip.find_map(post, rtol=1e-6).x)
        assert np.abs(np.asarray(together[i]) - x).max() < 1e-3 * np.abs(x).max()
