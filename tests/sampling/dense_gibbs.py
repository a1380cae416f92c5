"""A sampler of sparse posteriors by dense linear algebra in NumPy, to compare others with."""

import numpy as np
from scipy.linalg import solve_triangular

from invprob.covariance import dense_operator
from invprob.priors import HasTerms


def dense_gibbs(post, number, seed=0, warmup=500):
    """Draws ``(draw, unknown)`` of a posterior with one norm of one scale, each sweep with fresh Cholesky factors."""
    like, ((W, g),) = post.likelihood, post.prior.find(HasTerms).terms
    A, W = (np.asarray(dense_operator(operator)) for operator in (like.operator, W))
    weight = np.asarray(like.noise.inv(np.ones(like.data.shape))).ravel()
    H, b = A.T @ (weight[:, None] * A), A.T @ (weight * np.asarray(like.data).ravel())
    vectors = 2 if type(g).__name__ == "GroupNorm" else 1
    rate = 1 / float(np.ravel(g.scale)[0])
    rng, inverse = np.random.default_rng(seed), np.ones(len(W) // vectors)
    out = np.empty((number, len(b)))
    for i in range(-warmup, number):
        factor = np.linalg.cholesky(H + (W.T * np.tile(inverse, vectors)) @ W)
        x = solve_triangular(factor.T, solve_triangular(factor, b, lower=True) + rng.standard_normal(len(b)))
        length = np.sqrt(((W @ x).reshape(vectors, -1) ** 2).sum(0))
        inverse = rng.wald(rate / np.maximum(length, 1e-12), rate**2)
        if i >= 0:
            out[i] = x
    return out
