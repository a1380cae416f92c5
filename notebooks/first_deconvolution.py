# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first deconvolution
#
# A telescope on the ground saw a galaxy through the atmosphere. What would a space telescope have seen, and how well
# do we know? This notebook goes from a FITS file to that picture, one part of the model at a time:
#
# $$ \text{data} = A\,x + \text{noise}, \qquad p(x \mid \text{data}) \propto p(\text{data} \mid x)\, p(x). $$
#
# Each part of that line is one object: the observation, the operator $A$, the likelihood, the prior, the posterior.
# At the end the same is done in one call.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from matplotlib.colors import AsinhNorm

import invprob as ip

jax.config.update("jax_enable_x64", True)  # double precision; the library follows the arrays it is given
here = Path.cwd()
data = next(p / "data" for p in (here, *here.parents) if (p / "data" / "ground.fits").exists())

# %% [markdown]
# ## The observation
#
# `read_fits` finds image, noise, mask and point spread function by the names of the extensions. Pixels that are
# flagged, not a number or without a noise estimate are not *valid*: they carry no weight at all, and nothing is filled
# in for them.
#
# The data were simulated, so that there is a truth to compare with: `hubble.fits`, four times finer than the data. We
# shall work with pixels twice as fine as the data and therefore sum it in blocks of 2 x 2.

# %%
obs = ip.read_fits(data / "ground.fits")
sigma = np.sqrt(np.median(obs.variance[obs.valid]))
print(f"{obs.shape[0]} x {obs.shape[1]} pixels of {obs.frame.pixel_scale:.2f} arcsec, in {obs.frame.unit}")
print(f"noise: {obs.noise_source}, about {sigma:.2f} per pixel; not valid: {(~obs.valid).sum()} pixels")
print(f"PSF: {obs.psf.shape[0]} x {obs.psf.shape[1]} pixels, FWHM {obs.psf.fwhm_arcsec:.2f} arcsec")

with fits.open(data / "hubble.fits") as hdus:
    hubble = hdus["SCI"].data.astype(float)
ny, nx = hubble.shape
truth = hubble.reshape(ny // 2, 2, nx // 2, 2).sum((1, 3))

# %% [markdown]
# To compare images with pixels of different size we show all of them in flux per *data* pixel, with one stretch.

# %%
half = obs.frame.pixel_scale * obs.shape[0] / 2  # half the side of the field, in arcsec
stretch = AsinhNorm(linear_width=6 * sigma, vmin=-8 * sigma, vmax=np.max(truth) * 3)


def show(*images, norm=stretch, cmap="inferno", label="electron/s / data pixel"):
    """Images side by side: (title, array in flux per data pixel)."""
    figure, axes = plt.subplots(1, len(images), figsize=(3.7 * len(images) + 0.8, 3.7), layout="constrained")
    for ax, (title, array) in zip(np.atleast_1d(axes), images, strict=True):
        drawn = ax.imshow(array, origin="lower", extent=(-half, half, -half, half), norm=norm, cmap=cmap)
        ax.set_title(title)
        ax.set_xlabel("arcsec")
        ax.set_facecolor("0.6")
    bar = figure.colorbar(drawn, ax=axes, label=label, extend="both")
    bar.set_ticks([-1, 0, 1, 2, 5, 10, 20] if norm is stretch else [-2, 0, 2], minor=False)
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.minorticks_off()
    plt.show()


show(("from the ground", np.where(obs.valid, obs.data, np.nan)), ("from space (the truth)", 16 * hubble))

# %% [markdown]
# ## The latent grid
#
# The unknown is an image $x$ on the *latent grid*: here twice as fine as the data, and larger by the reach of the PSF
# on each side. The border lets light from outside the frame scatter in, as it does on the sky, and keeps Fourier
# transforms from moving light from one side of the image to the other.

# %%
grid = obs.frame.refine(2).pad(obs.psf)
print(f"data {obs.shape}, footprint on the latent grid {grid.cropped().shape}, latent grid {grid.shape}")

# %% [markdown]
# ## The operator
#
# $A$ takes $x$ to the noiseless data in two steps: convolve with the PSF at the latent pixel and keep the footprint
# (`Convolve`), then sum 2 x 2 latent pixels to a data pixel (`PixelBin`). `@` composes operators, a call applies them,
# and `.T` is the adjoint, with $\langle u, A x\rangle = \langle A^T u, x\rangle$.

# %%
convolve = ip.operators.Convolve(jnp.asarray(obs.psf.on(grid)), grid.shape, grid.footprint)
A = ip.operators.PixelBin(2, convolve.out_structure.shape) @ convolve

x = jax.random.normal(jax.random.key(0), grid.shape)
u = jax.random.normal(jax.random.key(1), obs.shape)
print("adjoint:", float(jnp.vdot(u, A(x))), "=", float(jnp.vdot(A.T(u), x)))

# %% [markdown]
# If the model of the telescope is right, the truth seen through $A$ differs from the data by noise alone. It does:

# %%
truth_on_grid = ip.operators.Pad(grid.shape, grid.footprint)(jnp.asarray(truth))
pulls = np.where(obs.valid, (obs.data - A(truth_on_grid)) / np.sqrt(obs.variance), np.nan)
print(f"mean square of (data - A truth) / sigma: {np.nanmean(pulls**2):.3f}")

# %% [markdown]
# ## The likelihood
#
# The noise is Gaussian and independent from pixel to pixel, with the variance that the file gives. The mask is part of
# the likelihood.

# %%
likelihood = ip.likelihoods.Gaussian(
    A, jnp.asarray(obs.data), noise=ip.Diagonal(jnp.asarray(obs.variance)), valid=jnp.asarray(obs.valid)
)
print(f"chi-square of an empty sky: {float(likelihood.chi2(jnp.zeros(grid.shape))):.0f}")
print(f"chi-square of the truth:    {float(likelihood.chi2(truth_on_grid)):.0f} for {int(likelihood.num_data)} data")

# %% [markdown]
# ## The prior
#
# The data alone do not determine $x$: what the PSF has removed, any amount of noise can replace. The prior says how
# strong structure of each size is expected to be. Here it is a Gaussian random field with the power spectrum
#
# $$ P(k) = A \left(1 + (k/k_0)^2\right)^{-a/2} $$
#
# ($k$ in cycles per latent pixel). Draws show what a choice of amplitude, break and slope means:

# %%
shades = plt.Normalize(-3, 3)
draws = []
for slope in (1.0, 2.0, 4.0):
    prior = ip.priors.GaussianField(grid.shape, ip.priors.PowerLaw(1.0, 0.01, slope))
    draw = prior.sample(jax.random.key(3))[grid.footprint]
    draws.append((f"slope {slope:.0f}", (draw - draw.mean()) / draw.std()))
show(*draws, norm=shades, cmap="gray", label="standard deviations")

# %% [markdown]
# ## The strength of the prior, from the data
#
# Nobody has to guess the three numbers. The *evidence* (marginal likelihood)
#
# $$ p(\text{data} \mid A, k_0, a) = \int p(\text{data} \mid x)\, p(x \mid A, k_0, a)\, \mathrm{d}x
#    = N\!\left(\text{data};\ 0,\ A S A^T + N\right) $$
#
# says how probable the data are under each choice. A prior that is too weak wastes its probability on skies that look
# like noise, one that is too strong cannot explain the galaxy; the maximum lies between. `field_hierarchy` is the
# posterior as a function of the three numbers, `maximize_evidence` finds the best.

# %%
hierarchy = ip.field_hierarchy(likelihood, grid.shape)
evidence = ip.maximize_evidence(hierarchy)
theta = {name: float(jnp.exp(value)) for name, value in evidence.theta.items()}
amplitude, scale, slope = (theta[f"log_{name}"] for name in ("amplitude", "scale", "slope"))
print(f"amplitude {amplitude:.1f}, break at {scale:.4f} cycles per pixel, slope {slope:.2f}")
print(f"log evidence {evidence.log_evidence:.1f} ({evidence.method}, {evidence.evaluations} evaluations)")

# %% [markdown]
# The spectrum that the evidence chose, from the blurred data, against that of the truth, which it has not seen. The
# PSF suppresses everything to the right of the dotted line by more than a factor of a hundred in power.


# %%
def radial(power):
    """Mean of a two-dimensional power spectrum in rings: frequencies, values."""
    k = np.hypot(np.fft.fftfreq(power.shape[0])[:, None], np.fft.fftfreq(power.shape[1]))
    ring = np.round(k * power.shape[0]).astype(int)
    mean = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    keep = slice(1, power.shape[0] // 2)
    return (np.arange(len(mean)) / power.shape[0])[keep], mean[keep]


k, found = radial(np.abs(np.fft.fft2(truth, norm="ortho")) ** 2)
prior_power = np.asarray(ip.priors.PowerLaw(amplitude, scale, slope)(k))
otf = np.abs(np.fft.fft2(np.pad(obs.psf.on(grid), 100)))
k_otf, blur = radial(otf**2)
edge = k_otf[np.argmax(blur < 0.01)]

figure, ax = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
ax.loglog(k, found, "o", ms=3.5, color="0.35", label="truth")
ax.loglog(k, prior_power, lw=2, color="tab:orange", label="prior, by the evidence of the data")
ax.axvline(edge, color="0.6", ls=":", zorder=0)
ax.set_xlabel("spatial frequency (cycles per latent pixel)")
ax.set_ylabel("power")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The posterior and its maximum
#
# `find_map` looks at the structure of the problem and takes the method that suits it: everything is linear and
# Gaussian here, so that the most probable image solves a linear system, by conjugate gradients.

# %%
post = hierarchy.build(evidence.theta)
best = ip.find_map(post)
image = np.asarray(best.x[grid.footprint])
print(f"{best.solver}, {best.steps} steps: {best.status.value}\n{best.reason}")
print(f"chi-square {best.chi2:.0f} for {best.num_data} data")


# %%
def error(estimate):
    """Relative error of an image on the truth's grid."""
    return np.sqrt(np.sum((estimate - truth) ** 2) / np.sum(truth**2))


upsampled = np.kron(np.where(obs.valid, obs.data, 0), np.ones((2, 2))) / 4
good = np.kron(obs.valid, np.ones((2, 2))).astype(bool)
before = np.sqrt(np.sum((upsampled - truth)[good] ** 2) / np.sum(truth[good] ** 2))
print(f"relative error: data {before:.2f}, most probable image {error(image):.2f}")
show(
    ("data", np.where(obs.valid, obs.data, np.nan)),
    ("most probable image", 4 * image),
    ("truth", 4 * truth),
)

# %% [markdown]
# The arms are separated, and the bad column has left no trace. The wavy pattern of the sky is the price of this prior,
# which expects the same structure everywhere, on the galaxy and beside it. How far it can be trusted is the next
# question.
#
# ## Errors: draws from the posterior
#
# `exact_draws` gives independent draws of the posterior: not a chain, no burn-in. What is kept of each draw is up to
# the function given; it gets the deviation of the draw from the most probable image.


# %%
def on_the_footprint(deviation):
    return deviation[grid.footprint]


parts, _ = ip.sampling.exact_draws(post, jax.random.key(0), 64, on_the_footprint)
samples = image + np.concatenate([np.asarray(part) for part in parts])
std = samples.std(0)
show(("one draw", 4 * samples[0]), ("another", 4 * samples[1]), ("mean of 64", 4 * samples.mean(0)))

# %% [markdown]
# All draws explain the data equally well. What they share is known, what differs is not. A cut through the middle,
# with the band that holds 68 % of the draws:

# %%
row = truth.shape[0] // 2
position = (np.arange(truth.shape[1]) + 0.5) * obs.frame.pixel_scale / 2 - half
low, high = np.percentile(4 * samples[:, row], [16, 84], axis=0)
figure, ax = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
ax.fill_between(position, low, high, color="tab:orange", alpha=0.4, lw=0, label="68 % of the draws")
ax.plot(position, 4 * image[row], color="tab:orange", label="most probable image")
ax.plot(position, 4 * truth[row], color="k", lw=1.2, label="truth")
cut = np.where(good[row], 4 * upsampled[row], np.nan)
ax.step(position, cut, where="mid", color="0.6", lw=1, label="data")
ax.set_xlim(-half, half)
ax.set_xlabel("arcsec")
ax.set_ylabel("electron/s / data pixel")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# In the bright centre the truth leaves the band. The errors are those of an average place of the field: this prior does
# not know that the centre of a galaxy is special, and nothing in the blurred data tells a sharp peak from a round one.
# Over the whole field the band is generous:

# %%
inside = np.abs(truth - image) < std
print(f"truth within one standard deviation: {100 * inside.mean():.0f} % of the pixels")

# %% [markdown]
# Errors of single pixels are large and strongly correlated; sums are known much better. Every quantity gets its error
# in the same way: compute it for each draw and look at the scatter. The flux of the whole field:

# %%
flux = samples.sum((1, 2))
print(f"flux {image.sum():.0f} +- {flux.std():.0f} electron/s; truth {truth.sum():.0f}")

# %% [markdown]
# ## The same in one call
#
# `deconvolve` does all of the above. `Config` says what differs from the defaults; `plot_result` draws the picture, and
# `write_fits` writes estimate, error, mask, model, residual and PSF with the world coordinates of the finer grid and
# everything that is needed to repeat the run.

# %%
result = ip.deconvolve(obs, ip.Config(refine=2))
ip.plot_result(result, obs)

# %%
out = Path(tempfile.mkdtemp()) / "sharp.fits"
ip.write_fits(result, out, observation=obs)
with fits.open(out) as hdus:
    hdus.info()
    cards = hdus[0].header
    print(f"\nFLUX = {cards['FLUX']:.1f} +- {cards['FLUXERR']:.1f}, chi-square per degree of freedom", end=" ")
    print(f"{cards['CHI2EDOF']:.3f}, status {cards['STATUS']}")

# %% [markdown]
# From the command line this is
#
#     invprob deconvolve data/ground.fits --refine 2 -o sharp.fits --plot sharp.png
