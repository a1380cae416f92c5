"""Every solver keeps the contract of solvers."""

import jax
import pytest

from invprob.infer.solvers import ConjugateGradient, Wiener
from invprob.testing import check_solver, small_problem

from ..cases import SOLVERS
from .problems import learned_problem, masked_problem, periodic_problem, psf

PROBLEMS = {
    "wiener": periodic_problem,
    "twogrid": lambda: masked_problem(side=24, kernel=psf(6.0, 13)),
}


LEARNED = "plugplay"


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != LEARNED])
def test_contract(name):
    make = SOLVERS[name][1]
    check_solver(make(), PROBLEMS[name]() if name in PROBLEMS else None)


def test_contract_of_a_learned_prior():
    post, gaussian = learned_problem(side=6)
    check_solver(SOLVERS[LEARNED][1](), post, reference=gaussian)


def test_contract_notices_a_solver_that_stops_too_early():
    class Hasty(ConjugateGradient):
        def _metrics(self, problem, state, *args):
            metrics = super()._metrics(problem, state, *args)
            return jax.tree.map(lambda a: a, metrics.__class__(metrics.step, 0 * metrics.gap, metrics.code * 0 + 1))

    with pytest.raises(AssertionError, match="dense optimum"):
        check_solver(Hasty())


def test_wiener_refuses_what_it_does_not_solve():
    with pytest.raises(TypeError, match="circulant"):
        Wiener().prepare(small_problem())
