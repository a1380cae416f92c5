"""The scene of a simulation: a barred spiral with companions and stars, as a space telescope shows it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Complex, Float
from scipy.fft import next_fast_len
from scipy.special import gamma, i0e, j1

MAIN_FLUX = 2500.0  # electron/s of the main galaxy: 18.5 mag where 27 mag is one electron/s
TARGET = 0.1  # arcsec, FWHM of the target PSF where the fine pixels allow it
SUB = 4  # points on a side of a fine pixel at which profiles are sampled


def block_sum(image: Float[np.ndarray, "fy fx"], factor: int) -> Float[np.ndarray, "y x"]:
    """Sums over blocks of ``factor x factor`` pixels."""
    ny, nx = (n // factor for n in image.shape)
    return image.reshape(ny, factor, nx, factor).sum(axis=(1, 3))


class Scene:
    """The scene on a grid of `SUB` points on a side of a fine pixel; lengths in arcsec from the middle."""

    def __init__(self, size: int, fine: float, rng: np.random.Generator):
        self.size, self.fine, self.rng = size, fine, rng
        self.field = size * fine
        self.step = fine / SUB
        # room for the wings of the target PSF, so that they do not come back on the other side
        self.points = 2 * int(next_fast_len((SUB * size + int(2.0 / self.step)) // 2 + 1, real=True))  # type: ignore[arg-type]
        self.axis = (np.arange(self.points) - (self.points - 1) / 2) * self.step
        self.y, self.x = self.axis[:, None], self.axis[None, :]
        self.light = np.zeros((self.points, self.points))
        self.stars: list[tuple[float, float, float]] = []

    def image(self) -> Float[np.ndarray, "fy fx"]:
        """Flux per fine pixel with the target PSF."""
        radius = min(self.field / 6.3, 1.9)
        self.spiral(radius)
        self.others(radius)
        spectrum = np.fft.rfft2(self.light)
        fy, fx = np.fft.fftfreq(self.points), np.fft.rfftfreq(self.points)
        for x, y, flux in self.stars:
            at = [v / self.step + (self.points - 1) / 2 for v in (y, x)]
            spectrum += flux * np.outer(np.exp(-2j * np.pi * fy * at[0]), np.exp(-2j * np.pi * fx * at[1]))
        seen = np.fft.irfft2(spectrum * self.target(), s=self.light.shape)
        edge = (self.points - SUB * self.size) // 2
        return block_sum(seen[edge : edge + SUB * self.size, edge : edge + SUB * self.size], SUB)

    def target(self) -> Complex[np.ndarray, "fy fx"]:
        """Transfer function of the target PSF without the fine pixel, which the block sums add."""
        wavelength, diameter, obscuration = 814e-9, 2.4, 0.33
        unit = np.pi * diameter / wavelength * np.radians(1 / 3600)
        offset = np.fft.fftfreq(self.points, 1 / self.points) * self.step  # the origin comes first
        v = np.maximum(unit * np.hypot(offset[:, None], offset), 1e-9)
        airy = (2 * j1(v) / v - obscuration * 2 * j1(obscuration * v) / v) ** 2
        broad = max(TARGET**2, (2 * self.fine) ** 2) - 0.068**2 - (0.7 * self.fine) ** 2
        variance = max(broad, 0.03**2) / (8 * np.log(2)) / self.step**2
        fy, fx = np.fft.fftfreq(self.points)[:, None], np.fft.rfftfreq(self.points)
        return np.fft.rfft2(airy / airy.sum()) * np.exp(-2 * np.pi**2 * variance * (fy**2 + fx**2))

    def coordinates(self, x: float, y: float, ratio: float, angle: float):
        """Coordinates along the axes of an ellipse, the minor one stretched to a circle."""
        c, s = np.cos(angle), np.sin(angle)
        u = c * (self.x - x) + s * (self.y - y)
        w = (c * (self.y - y) - s * (self.x - x)) / ratio
        return u, w

    def sersic(self, flux: float, radius: float, index: float, x=0.0, y=0.0, ratio=1.0, angle=0.0):
        """A Sersic profile of a total flux, effective radius along the major axis and index."""
        u, w = self.coordinates(x, y, ratio, angle)
        b = 2 * index - 1 / 3 + 4 / (405 * index)  # Ciotti & Bertin 1999, A&A 352, 447
        area = 2 * np.pi * index * radius**2 * ratio * b ** (-2 * index) * gamma(2 * index)
        r = np.sqrt(u**2 + w**2 + (0.3 * self.step) ** 2) / radius
        return flux * self.step**2 / area * np.exp(-b * r ** (1 / index))

    def blob(self, flux: float, sigma: float, x: float, y: float):
        """A round Gaussian."""
        row, column = (np.exp(-0.5 * ((self.axis - at) / sigma) ** 2) for at in (x, y))
        return np.outer(column, row) * (flux * self.step**2 / (2 * np.pi * sigma**2))

    def spiral(self, radius: float) -> None:
        """A barred spiral with `radius` the half-light radius of its disc, in the middle."""
        rng = self.rng
        ratio, angle = rng.uniform(0.68, 0.85), rng.uniform(0, np.pi)
        pitch, turn = np.radians(rng.uniform(17, 22)), rng.choice([-1.0, 1.0])
        bar = rng.uniform(0.42, 0.5) * radius
        tilt = rng.uniform(0, np.pi)
        u, w = self.coordinates(0, 0, ratio, angle)
        r, theta = np.hypot(u, w), np.arctan2(w, u)
        sharpness, ridge = 3.0, np.log(np.maximum(r, 1e-3 * radius) / bar) / np.tan(pitch)
        phase = 2 * (theta - tilt - turn * ridge)
        contrast = 0.85 / (1 + np.exp(-(r - bar) / (0.12 * bar)))
        arms = np.exp(sharpness * (np.cos(phase) - 1)) / i0e(sharpness)
        dust = 1 - 0.5 * contrast * np.exp(8 * (np.cos(phase + turn * 1.1) - 1))
        disc = self.sersic(0.71 * MAIN_FLUX, radius, 1.0, ratio=ratio, angle=angle)
        end = 1 / (1 + np.exp(8 * (r / radius - 2.3)))  # discs end; none is to be cut by the frame
        self.light += disc * (1 - contrast + contrast * arms) * dust * end
        # in the plane of the sky the bar lies where the arms begin
        along = np.arctan2(ratio * np.sin(tilt), np.cos(tilt)) + angle
        self.light += self.sersic(0.08 * MAIN_FLUX, 0.7 * bar, 0.6, ratio=0.32, angle=along)
        self.light += self.sersic(0.06 * MAIN_FLUX, 0.2 * radius, 1.0, ratio=0.9, angle=angle)
        self.knots(0.15 * MAIN_FLUX, radius, bar, ratio, angle, tilt, turn, pitch)

    def knots(self, flux, radius, bar, ratio, angle, tilt, turn, pitch) -> None:
        """Regions of star formation along the arms."""
        rng, n = self.rng, 42
        fluxes = np.minimum(rng.pareto(1.1, n) + 1, 12.0)
        fluxes *= flux / fluxes.sum()
        r = bar * rng.uniform(1.0, np.log(2.2 * radius / bar) + 1, n)
        r = np.clip(bar * np.exp(r / bar - 1), bar, 2.2 * radius) * rng.normal(1, 0.03, n)
        theta = tilt + turn * np.log(r / bar) / np.tan(pitch) + np.pi * rng.integers(0, 2, n)
        theta += rng.normal(0, 0.1, n)
        u, w = r * np.cos(theta), ratio * r * np.sin(theta)
        x, y = np.cos(angle) * u - np.sin(angle) * w, np.sin(angle) * u + np.cos(angle) * w
        for i in range(n):
            sigma = 0.03 * radius * (1 + 1.5 * rng.random()) + 0.02
            self.light += self.blob(fluxes[i], sigma, x[i], y[i])

    def others(self, radius: float) -> None:
        """Companions, a double star and single stars, in places that are free."""
        rng, half = self.rng, 0.4 * self.field
        many = max(1.0, self.field**2 / 80)
        taken = [(0.0, 0.0, 2.1 * radius)]

        def place(room: float) -> tuple[float, float]:
            x = y = 0.0
            for attempt in range(400):
                x, y = rng.uniform(-half, half, 2)
                shrink = 0.995**attempt
                if all(np.hypot(x - a, y - b) > shrink * (room + c) for a, b, c in taken):
                    break
            taken.append((x, y, room))
            return x, y

        x, y = place(0.8)
        apart, direction = rng.uniform(0.55, 0.65), rng.uniform(0, np.pi)
        dx, dy = 0.5 * apart * np.cos(direction), 0.5 * apart * np.sin(direction)
        self.stars += [(x + dx, y + dy, 0.016 * MAIN_FLUX), (x - dx, y - dy, 0.011 * MAIN_FLUX)]
        for _ in range(round(3 * many)):
            x, y = place(0.7)
            flux = MAIN_FLUX * 10 ** rng.uniform(-2.1, -1.3)
            size, index = rng.uniform(0.2, 0.4), rng.choice([0.8, 1.0, 1.5])
            shape = rng.uniform(0.35, 0.9), rng.uniform(0, np.pi)
            self.light += self.sersic(flux, size, float(index), x, y, *shape)
        for _ in range(round(2 * many)):
            self.stars.append((*place(0.5), MAIN_FLUX * 10 ** rng.uniform(-2.7, -2.0)))
