"""Weights in files: written whole, read back, checked."""

import hashlib
import io
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob.errors import InputError, OutputError
from invprob.priors.denoiser import LEVELS, SHARES, untrained
from invprob.priors.learned import Training
from invprob.priors.weights_file import EARLIER, learned_prior, load_weights, save_weights
from tests.priors.test_learned import SHAPE, SMALL, spectrum, stirred


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "small.eqx"
    about = Training("small", (0.03, 0.05), 0.1, "electron/s", 25.9, card={"number": 3})
    return path, save_weights(stirred().denoiser, path, about, SMALL)


def test_round_trip(saved):
    path, digest = saved
    denoiser, about = load_weights(path)
    assert about.hash == digest and about.name == "small" and about.card == {"number": 3} and about.zeropoint == 25.9
    x = jax.random.normal(jax.random.key(0), SHAPE)
    prior = learned_prior(path, SHAPE)
    np.testing.assert_array_equal(prior.denoise(x, 0.3), stirred().denoise(x, 0.3))
    assert prior.training.hash == digest and load_weights(path)[0].network.patch == denoiser.network.patch


def test_the_same_weights_have_the_same_hash(saved, tmp_path):
    path, digest = saved
    assert save_weights(*[load_weights(path)[0]], tmp_path / "b.eqx", load_weights(path)[1], SMALL) == digest


def test_shipped_weights_the_first_format(saved, tmp_path):
    """Their network had fewer filters; it is read as one that neither sees nor weighs the others."""
    kind, shares = next(iter(EARLIER.items()))
    first = untrained(jax.random.key(0), spectrum(), 0.3, shares, **SMALL)
    out = first.network.out
    last = [0.3 * jax.random.normal(jax.random.key(i), a.shape, a.dtype) for i, a in enumerate((out.weight, out.bias))]
    first = eqx.tree_at(lambda d: (d.network.out.weight, d.network.out.bias), first, last)
    header = json.loads(saved[0].read_bytes().split(b"\n")[1]) | {"format": kind}
    arrays = io.BytesIO()
    eqx.tree_serialise_leaves(arrays, first)
    body = json.dumps(header).encode() + b"\n" + arrays.getvalue()
    path = tmp_path / "first.eqx"
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    network = load_weights(path)[0].network
    at = [SHARES.index(share) for share in shares]
    x, level = jax.random.normal(jax.random.key(2), (8, 8, 3 + len(SHARES))), jnp.zeros(len(LEVELS))
    found = network(x, level)
    known = first.network(x[..., [0, 1, 2, *(3 + i for i in at)]], level)
    np.testing.assert_allclose(found[..., [0, *(1 + i for i in at)]], known, atol=1e-5)
    others = [1 + i for i in range(len(SHARES)) if i not in at]
    assert others and not np.any(found[..., others])
    assert float(jnp.abs(known).max()) > 0.1


def test_what_is_there_is_kept(saved):
    path, _ = saved
    with pytest.raises(OutputError, match="exists"):
        save_weights(stirred().denoiser, path, Training(), SMALL)


def test_damage_is_noticed(saved):
    path, _ = saved
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_weights(path)


@pytest.mark.parametrize("content", [b"", b"SIMPLE  =  T", b"abc\n{}\n", b'abc\n{"format": "other"}\n'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.eqx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not weights of a learned prior"):
        load_weights(path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(tmp_path / "none.eqx")
