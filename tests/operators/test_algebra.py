"""Composition, fusing, parts of pytrees, selections, and the messages of what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invprob import operators as op
from tests.cases import SHAPE, VALID, convolve, fresh, image_and_sky, saturation, transfer


def test_pixel_bin_sums_blocks():
    x = fresh(6, 9)
    wanted = [[x[3 * i : 3 * i + 3, 3 * j : 3 * j + 3].sum() for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(op.PixelBin(3, x.shape)(x), wanted, rtol=1e-12)
    with pytest.raises(ValueError, match="do not divide"):
        op.PixelBin(4, (6, 8))


def test_select_takes_the_valid_pixels_and_its_adjoint_puts_them_back():
    x, select = fresh(*SHAPE), op.Select(VALID)
    np.testing.assert_array_equal(select(x), np.asarray(x)[VALID])
    np.testing.assert_array_equal(select.T(select(x)), np.where(VALID, x, 0))


def test_crop_and_pad_are_adjoint():
    cut = (slice(1, 4), slice(2, 7))
    crop, pad, x = op.Crop(SHAPE, cut), op.Pad(SHAPE, cut), fresh(*SHAPE)
    np.testing.assert_array_equal(crop(x), x[cut])
    np.testing.assert_array_equal(pad(x[cut]), crop.T(x[cut]))
    np.testing.assert_array_equal(crop(pad(x[cut])), x[cut])
    with pytest.raises(ValueError, match="does not lie inside"):
        op.Crop(SHAPE, (slice(1, 4), slice(2, 8)))


def test_parts_of_a_pytree():
    x = {"image": fresh(*SHAPE), "sky": fresh()}
    structure = op.Structure(x)
    assert op.Part("sky", structure)(x) is x["sky"]
    back = op.Part("image", structure).T(x["image"])
    assert float(back["sky"]) == 0 and back["image"] is x["image"]
    both = image_and_sky()
    inner = both.operators[-1].operators["image"]
    np.testing.assert_allclose(both(x), inner(x["image"]) + x["sky"], rtol=1e-12)
    with pytest.raises(ValueError, match="one shape"):
        op.Sum({"a": (3,), "b": (4,)})


def test_part_of_each_is_the_part_alone():
    each = op.BlockDiagonal({"image": convolve(), "sky": op.Broadcast((3,))})
    picked = op.Part("sky", each.out_structure) @ each
    assert [type(o) for o in picked.operators] == [op.Broadcast, op.Part]


def test_stack_gives_one_output_for_each():
    first, second, x = convolve(), op.Multiply(fresh(*SHAPE)), fresh(*SHAPE)
    both = op.stack([first, second])
    np.testing.assert_array_equal(both(x)[1], second(x))
    # the factor on the right is applied once, unless each branch takes it in
    once = both @ op.Multiply(fresh(*SHAPE))
    assert isinstance(once, op.LinearComposition) and once.operators[0] is both
    taken = op.stack([second, second]) @ op.Multiply(fresh(*SHAPE))
    assert isinstance(taken, op.Stack) and isinstance(taken.operators[1], op.Multiply)
    np.testing.assert_allclose(once(x)[1], second(once.operators[1](x)))
    with pytest.raises(ValueError, match="same input"):
        op.stack([first, op.Identity((3,))])
    with pytest.raises(TypeError, match="not a linear operator"):
        op.stack([first, saturation()])
    with pytest.raises(TypeError, match="not a linear operator"):
        op.BlockDiagonal({"a": saturation()})


def test_compositions_are_flat_and_lose_identities():
    a, b, c = op.PixelBin(2, (4, 4)), op.Crop(SHAPE, (slice(0, 4), slice(0, 4))), op.Select(VALID).T
    left, right = (a @ b) @ c, a @ (op.Identity((4, 4)) @ (b @ c @ op.Identity(c.in_structure)))
    assert left.operators == right.operators == (a, b, c)
    assert type(op.Identity(SHAPE) @ op.Identity(SHAPE)) is op.Identity
    x = fresh(*left.in_structure.shape)
    np.testing.assert_array_equal(left(x), a(b(c(x))))


def test_a_convolution_of_a_field_in_fourier_coordinates_costs_one_fft():
    synthesis, blur = op.FourierSynthesis(transfer(), SHAPE), op.CircularConvolve(transfer(), SHAPE)
    fused = blur @ blur @ synthesis
    assert type(fused) is op.FourierSynthesis
    c = jnp.fft.rfft2(fresh(*SHAPE))
    np.testing.assert_allclose(fused(c), blur(blur(synthesis(c))), atol=1e-10)
    framed = (
        op.PixelBin(2, (4, 4)) @ op.Convolve(jnp.ones((3, 3)), (6, 6)) @ op.FourierSynthesis(transfer((6, 6)), (6, 6))
    )
    assert [type(o) for o in framed.operators] == [op.PixelBin, op.Crop, op.FourierSynthesis]
    text = str(jax.make_jaxpr(framed.apply)(jnp.fft.rfft2(fresh(6, 6))))
    assert text.count("= fft[") == 1
    both = op.CircularConvolve(transfer(), SHAPE) @ op.Shift(fresh(2), SHAPE) @ op.Multiply(fresh()[None, None], SHAPE)
    assert both.in_structure.shape == SHAPE


def test_at_composes_and_says_how_to_apply():
    with pytest.raises(TypeError, match=r"to apply Convolve to an array, call it: operator\(x\)"):
        convolve() @ jnp.ones(SHAPE)


def test_shapes_that_do_not_fit_say_both():
    with pytest.raises(ValueError, match=r"Convolve takes \(6, 7\), not \(7, 6\)"):
        convolve()(jnp.ones((7, 6)))
    with pytest.raises(ValueError, match=r"PixelBin takes \(6, 6\), but Convolve to its right gives \(4, 5\)"):
        op.PixelBin(2, (6, 6)) @ convolve()
    with pytest.raises(ValueError, match=r"takes .*image.*sky.*, not"):
        image_and_sky()({"image": jnp.ones(SHAPE)})


def test_structures_print_and_compare():
    a, b = op.Structure({"x": (2, 3), "s": ()}), op.Structure({"x": jnp.ones((2, 3)), "s": 1.0})
    assert a == b and hash(a) == hash(b) and str(a) == "{'s': (), 'x': (2, 3)}"
    assert not a.matches(op.Structure((2, 3)))
    with pytest.raises(TypeError, match="2 arrays"):
        _ = a.shape


def test_linearized_composition_is_the_product_of_jacobians():
    chain, x, v = convolve() @ saturation() @ op.Multiply(fresh(*SHAPE)), fresh(*SHAPE), fresh(*SHAPE)
    jacobian = chain.linearize(x)
    assert isinstance(jacobian, op.AbstractLinearOperator)
    np.testing.assert_allclose(jacobian(v), jax.jvp(chain.apply, (x,), (v,))[1], atol=1e-13)
