"""Made-up clips whose correspondence is known exactly.

A clip is a stack of textured layers: a background and blob-shaped objects, each nearer to the
camera than the one before. Layer coordinates are the pixels of frame 0, so a layer's motion map
``F_t``, with ``F_0`` the identity, sends a pixel of frame 0 to its place in frame t:

    F_t(r) = c + exp(s p) R(w p) (r + u_t(r) - c) + v p,      p = p(t), p(0) = 0, p'(0) = 1

with the centre c, velocity v, rotation w and log scale s per frame, and u_t a few plane waves of
small slope. Frames are drawn by inverting F_t at every pixel: the affine part in closed form, the
rest by fixed-point iteration, which converges because u_t is a contraction.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from corrlib.errors import InputError

OVERSAMPLING = 2  # texture samples per pixel and axis
MAX_SLOPE = 0.5  # of u_t; the inversion gains a factor of this with each iteration
MAX_OBJECTS = 12


@dataclass(frozen=True)
class SyntheticClip:
    """A clip and the truth about it.

    Attributes:
        frames: uint8 RGB ``(T, 3, H, W)``.
        masks: uint8 ``(T, H, W)``, 0 the background, objects 1, 2, ... from far to near.
        correspondence: float32 ``(T, 2, H, W)``; ``[t, :, y, x]`` is the (x, y) position in frame
            t of what pixel (x, y) shows in frame 0. It is known outside the image, too.
        visible: bool ``(T, H, W)``: whether that position lies within the pixel centres of frame
            t and no nearer object covers it.
    """

    frames: Tensor
    masks: Tensor
    correspondence: Tensor
    visible: Tensor


def synthetic_clip(
    frames: int = 8,
    height: int = 96,
    width: int = 128,
    objects: int = 2,
    seed: int = 0,
    *,
    speed: float = 3.0,
    rotation: float = 2.0,
    scaling: float = 0.01,
    nonrigid: float | None = None,
    lighting: float = 0.0,
    velocity: tuple[float, float] | None = None,
) -> SyntheticClip:
    """Draw a clip; the same arguments give the same clip.

    ``speed`` (pixels), ``rotation`` (degrees) and ``scaling`` (log of the factor) are what an
    object does per frame at the start, the background a quarter of it. ``nonrigid`` (pixels) is
    the largest displacement of a point within its object; None takes 1 % of the shorter side.
    Objects head for the middle, where they cover one another, and swing back before they are lost
    from view. ``velocity`` (x, y) in pixels per frame replaces all of that by one steady shift of
    every layer.
    ``lighting`` is the relative change of brightness: 0 none, 0.3 strong; it drifts smoothly in
    time and space, with a tint, from none in frame 0.

    Raises ``InputError`` for sizes, counts or amounts out of range.
    """
    _check(frames, height, width, objects)
    short = min(height, width)
    if nonrigid is None:
        nonrigid = 0.01 * short
    for name, value in (
        ("speed", speed),
        ("rotation", rotation),
        ("scaling", scaling),
        ("nonrigid", nonrigid),
        ("lighting", lighting),
    ):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} must be a finite number of at least 0, got {value}")
    if velocity is not None and not all(math.isfinite(part) for part in velocity):
        raise InputError(f"velocity must be two finite numbers, got {velocity}")
    if 2 * math.pi * nonrigid / _wavelength(short) > MAX_SLOPE:
        most = MAX_SLOPE * _wavelength(short) / (2 * math.pi)
        raise InputError(
            f"nonrigid motion of {nonrigid:g} pixels folds objects of a {width}x{height} clip; "
            f"the most is {most:.2g}"
        )
    random = _Random(seed)
    motions = _motions(
        random, frames, height, width, objects, speed, rotation, scaling, nonrigid, velocity
    )
    blobs = [_Blob(random, motion.centre, _radius(short, objects)) for motion in motions[1:]]
    hue = (0.08, 0.25, 0.52)[int(random.uniform(0, 3))] + random.uniform(-0.04, 0.04)
    textures = [_background_texture(random, height, width, hue)] + [
        _object_texture(random, height, width, k, hue) for k in range(objects)
    ]
    light = _Light(random, lighting, frames)

    pixels = _pixel_grid(height, width)
    pictures, masks, places, visible = [], [], [], []
    for t in range(frames):
        at_rest = [motion.inverse(t, pixels) for motion in motions]
        depths = [blob.depth(r) for blob, r in zip(blobs, at_rest[1:], strict=True)]
        colour = _sample(textures[0], at_rest[0])
        mask = torch.zeros(height, width, dtype=torch.uint8)
        for k, (blob, depth) in enumerate(zip(blobs, depths, strict=True), start=1):
            opacity = (depth + 0.5).clamp(0, 1)  # an edge one pixel wide
            painted = _sample(textures[k], at_rest[k]) * blob.shading(depth)
            colour = colour + opacity * (painted - colour)
            mask[depth > 0] = k
        pictures.append((light(t, colour, pixels)).round().clamp(0, 255).to(torch.uint8))
        masks.append(mask)

        owner = masks[0]
        place = torch.zeros_like(pixels)
        for k, motion in enumerate(motions):
            place = torch.where(owner == k, motion.forward(t, pixels), place)
        bounds = torch.tensor([width - 1, height - 1]).view(2, 1, 1)
        # A shift by whole pixels must not lose the border row to rounding.
        seen = ((place >= -1e-6) & (place <= bounds + 1e-6)).all(0)
        for k, (motion, blob) in enumerate(zip(motions[1:], blobs, strict=True), start=1):
            covered = blob.depth(motion.inverse(t, place)) > 0
            seen &= ~(covered & (owner < k))
        places.append(place.float())
        visible.append(seen)
    return SyntheticClip(
        torch.stack(pictures), torch.stack(masks), torch.stack(places), torch.stack(visible)
    )


def _check(frames: int, height: int, width: int, objects: int) -> None:
    if frames < 1:
        raise InputError(f"a clip has at least 1 frame, got {frames}")
    if not (16 <= height <= 4096 and 16 <= width <= 4096):
        raise InputError(f"height and width must lie in 16..4096 pixels, got {height}x{width}")
    if not 0 <= objects <= MAX_OBJECTS:
        raise InputError(f"the number of objects must lie in 0..{MAX_OBJECTS}, got {objects}")


def _pixel_grid(height: int, width: int) -> Tensor:
    """``(2, H, W)`` float64 (x, y) of the pixel centres."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64),
        torch.arange(width, dtype=torch.float64),
        indexing="ij",
    )
    return torch.stack([x, y])


class _Random:
    """Numbers from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        value = torch.rand((), generator=self.generator, dtype=torch.float64).item()
        return low + (high - low) * value

    def sign(self) -> float:
        return 1.0 if self.uniform(0, 1) < 0.5 else -1.0

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


# -- motion --------------------------------------------------------------------------------------


class _Motion:
    """The map F_t of one layer, for points ``(2, ...)`` in pixels, float64."""

    def __init__(
        self,
        centre: tuple[float, float],
        velocity: tuple[float, float],
        spin: float,
        growth: float,
        period: float,
        waves: list[tuple[float, float, float, float, float, float]],
    ) -> None:
        self.centre = centre
        self.velocity = velocity
        self.spin = spin  # radians per frame
        self.growth = growth
        self.period = period  # frames of a whole swing; infinite for steady motion
        self.waves = waves  # each: displacement (x, y), wave vector (x, y), phase, period

    def _progress(self, t: int) -> float:
        if math.isinf(self.period):
            return float(t)
        return self.period / (2 * math.pi) * math.sin(2 * math.pi * t / self.period)

    def _affine(self, t: int) -> tuple[Tensor, Tensor]:
        p = self._progress(t)
        size, angle = math.exp(self.growth * p), self.spin * p
        cos, sin = size * math.cos(angle), size * math.sin(angle)
        matrix = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        shift = torch.tensor(self.velocity, dtype=torch.float64) * p
        return matrix, shift

    def _displacement(self, t: int, rest: Tensor) -> Tensor:
        total = torch.zeros_like(rest)
        for dx, dy, kx, ky, phase, period in self.waves:
            wave = torch.sin(kx * rest[0] + ky * rest[1] + phase)
            wave = wave * math.sin(2 * math.pi * t / period)
            total = total + torch.stack([dx * wave, dy * wave])
        return total

    def forward(self, t: int, rest: Tensor) -> Tensor:
        matrix, shift = self._affine(t)
        centre = torch.tensor(self.centre, dtype=torch.float64)
        view = (2,) + (1,) * (rest.dim() - 1)
        moved = rest + self._displacement(t, rest) - centre.view(view)
        return torch.einsum("ij,j...->i...", matrix, moved) + (centre + shift).view(view)

    def inverse(self, t: int, points: Tensor) -> Tensor:
        matrix, shift = self._affine(t)
        centre = torch.tensor(self.centre, dtype=torch.float64)
        view = (2,) + (1,) * (points.dim() - 1)
        moved = points - (centre + shift).view(view)
        target = torch.einsum("ij,j...->i...", matrix.inverse(), moved) + centre.view(view)
        rest = target
        for _ in range(60 if self.waves else 0):
            previous, rest = rest, target - self._displacement(t, rest)
            if (rest - previous).abs().max() < 1e-9:
                break
        return rest


def _wavelength(short: int) -> float:
    """The shortest wave in u_t, pixels."""
    return short / 2


def _radius(short: int, objects: int) -> float:
    """The mean radius of an object, pixels."""
    return 0.22 * short * min(1.0, math.sqrt(3 / objects))


def _motions(
    random: _Random,
    frames: int,
    height: int,
    width: int,
    objects: int,
    speed: float,
    rotation: float,
    scaling: float,
    nonrigid: float,
    velocity: tuple[float, float] | None,
) -> list[_Motion]:
    short = min(height, width)
    middle = ((width - 1) / 2, (height - 1) / 2)
    # Far enough for the whole clip in one direction, but not out of view.
    reach = min(speed * 4 * max(frames - 1, 1) / (2 * math.pi), 0.35 * short)
    period = 2 * math.pi * reach / speed if speed else 4.0 * max(frames - 1, 1)
    start = random.uniform(0, 2 * math.pi)
    # Two or more objects begin side by side or further apart, and end over one another.
    ring = 0.0
    if objects > 1:
        radius = _radius(short, objects)
        beside = 1.05 * radius / math.sin(math.pi / objects)
        ring = max(min(reach + 0.35 * radius, 0.36 * short), beside)
    motions = []
    for k in range(objects + 1):
        strength = 1.0 if k else 0.25
        place = start + 2 * math.pi * k / max(objects, 1) + random.uniform(-0.2, 0.2)
        centre = middle
        heading = place + math.pi + random.uniform(-0.3, 0.3)
        if k:
            centre = (middle[0] + ring * math.cos(place), middle[1] + ring * math.sin(place))
        own = (strength * speed * math.cos(heading), strength * speed * math.sin(heading))
        spin = strength * math.radians(rotation) * random.sign() * random.uniform(0.5, 1)
        growth = strength * scaling * random.sign() * random.uniform(0.5, 1)
        waves = []
        for _ in range(2 if k else 0):
            towards, across = random.uniform(0, 2 * math.pi), random.uniform(0, 2 * math.pi)
            number = 2 * math.pi / (_wavelength(short) * random.uniform(1, 1.6))
            waves.append(
                (
                    nonrigid / 2 * math.cos(towards),
                    nonrigid / 2 * math.sin(towards),
                    number * math.cos(across),
                    number * math.sin(across),
                    random.uniform(0, 2 * math.pi),
                    random.uniform(16, 32),
                )
            )
        if velocity is not None:
            motions.append(_Motion(centre, velocity, 0.0, 0.0, math.inf, []))
        else:
            motions.append(_Motion(centre, own, spin, growth, period, waves if nonrigid else []))
    return motions


# -- shape ---------------------------------------------------------------------------------------


class _Blob:
    """A star-shaped outline of smoothly varying radius."""

    def __init__(self, random: _Random, centre: tuple[float, float], radius: float) -> None:
        self.centre = centre
        self.radius = radius * random.uniform(0.9, 1.1)
        self.harmonics = [
            (n, random.uniform(0.3, 1) * 0.3 / n, random.uniform(0, 2 * math.pi)) for n in (2, 3, 5)
        ]

    def depth(self, rest: Tensor) -> Tensor:
        """About the distance in pixels from the outline, positive inside."""
        x, y = rest[0] - self.centre[0], rest[1] - self.centre[1]
        distance, angle = torch.hypot(x, y), torch.atan2(y, x)
        radius, slope = torch.ones_like(angle), torch.zeros_like(angle)
        for n, size, phase in self.harmonics:
            radius = radius + size * torch.cos(n * angle + phase)
            slope = slope - n * size * torch.sin(n * angle + phase)
        steepness = torch.hypot(torch.ones_like(slope), slope / radius)
        return (self.radius * radius - distance) / steepness

    def shading(self, depth: Tensor) -> Tensor:
        """Darker towards the outline, as if round; it moves with the object."""
        return 0.6 + 0.4 * torch.sin((depth / (0.6 * self.radius)).clamp(0, 1) * math.pi / 2)


# -- texture -------------------------------------------------------------------------------------


def _noise(random: _Random, height: int, width: int, fine: float, coarse: float) -> Tensor:
    """Gaussian noise, mean 0 and deviation 1, that repeats with the texture.

    ``fine`` and ``coarse`` are the shortest and longest wavelengths in pixels; in between, the
    amplitude grows with the wavelength, as it does in photographs.
    """
    rows, columns = height * OVERSAMPLING, width * OVERSAMPLING
    fy = torch.fft.fftfreq(rows, dtype=torch.float64).view(-1, 1) * OVERSAMPLING
    fx = torch.fft.rfftfreq(columns, dtype=torch.float64) * OVERSAMPLING
    f = torch.hypot(fy, fx)
    band = torch.exp(-((f * fine) ** 2)) * (1 - torch.exp(-((f * coarse) ** 2)))
    spectrum = torch.fft.rfft2(random.normal(rows, columns)) * band / f.clamp(min=1e-6) ** 1.5
    noise = torch.fft.irfft2(spectrum, s=(rows, columns))
    return (noise - noise.mean()) / noise.std().clamp(min=1e-12)


def _colour(hue: float, saturation: float, value: float) -> Tensor:
    red_green_blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return 255 * torch.tensor(red_green_blue, dtype=torch.float64).view(3, 1, 1)


def _mix(share: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return first + share * (second - first)


def _background_texture(random: _Random, height: int, width: int, hue: float) -> Tensor:
    """Pale ground with darker patches and pebbles, uint8 range ``(3, rows, columns)``."""
    short = min(height, width)
    patches = torch.sigmoid(2.5 * _noise(random, height, width, 8, short))
    pebbles = torch.sigmoid(8 * (_noise(random, height, width, 8, 24) - 1.6))
    grain = _noise(random, height, width, 3, 16)
    ground = _mix(patches, _colour(hue, 0.3, 0.75), _colour(hue + 0.06, 0.4, 0.45))
    ground = _mix(pebbles, ground, _colour(hue, 0.12, 0.9))
    return ground * (1 + 0.1 * grain).clamp(0.6, 1.3)


def _object_texture(random: _Random, height: int, width: int, index: int, hue: float) -> Tensor:
    """Saturated colours in one of three patterns: stripes, spots, patches."""
    short = min(height, width)
    own = hue + 0.5 + 0.382 * index  # golden ratio: neighbours differ most
    bright, dark = _colour(own, 0.85, 0.85), _colour(own + 0.05, 0.75, 0.4)
    other = _colour(own + 0.13, 0.35, 0.88)
    bend = _noise(random, height, width, 12, short / 3)
    if index % 3 == 0:
        # Whole numbers of stripes per texture, so that it repeats without a seam.
        wavelength = max(9.0, short / 10)
        angle = random.uniform(0, math.pi)
        across = round(width / wavelength * math.cos(angle))
        down = round(height / wavelength * math.sin(angle))
        x = torch.arange(width * OVERSAMPLING, dtype=torch.float64) / (width * OVERSAMPLING)
        y = torch.arange(height * OVERSAMPLING, dtype=torch.float64) / (height * OVERSAMPLING)
        phase = 2 * math.pi * (across * x + down * y.view(-1, 1)) + 1.2 * bend
        pattern = torch.sigmoid(4 * torch.sin(phase))
    elif index % 3 == 1:
        pattern = torch.sigmoid(7 * (_noise(random, height, width, 6, short / 6) - 0.6))
    else:
        pattern = torch.sigmoid(6 * _noise(random, height, width, 6, short / 5))
    colour = _mix(pattern, bright, dark if index % 2 == 0 else other)
    colour = _mix(torch.sigmoid(5 * (bend - 1)), colour, other if index % 2 == 0 else dark)
    grain = _noise(random, height, width, 3, 12)
    return colour * (1 + 0.1 * grain).clamp(0.6, 1.3)


def _sample(texture: Tensor, rest: Tensor) -> Tensor:
    """Texture ``(3, rows, columns)`` at layer coordinates ``(2, H, W)``, repeating, bicubic."""
    rows, columns = texture.shape[1:]
    margin = 3
    padded = F.pad(texture[None], (margin,) * 4, mode="circular")
    size = torch.tensor([columns, rows], dtype=torch.float64).view(2, 1, 1)
    inside = torch.remainder(rest * OVERSAMPLING, size) + margin
    last = size + 2 * margin - 1
    grid = (2 * inside / last - 1).permute(1, 2, 0)[None]
    return F.grid_sample(padded, grid, mode="bicubic", align_corners=True)[0]


# -- light ---------------------------------------------------------------------------------------


class _Light:
    """Gain, offset and a slope across the image that swing in time, none at t = 0."""

    def __init__(self, random: _Random, strength: float, frames: int) -> None:
        self.strength = strength
        self.period = 4.0 * max(frames - 1, 4)
        self.sign = random.sign()
        self.tint = torch.tensor([random.uniform(0.7, 1) for _ in range(3)]).double()
        angle = random.uniform(0, 2 * math.pi)
        self.direction = (math.cos(angle), math.sin(angle))

    def __call__(self, t: int, colour: Tensor, pixels: Tensor) -> Tensor:
        """Colours ``(3, H, W)`` in 0..255 as this light shows them in frame t."""
        if not self.strength:
            return colour
        amount = self.strength * self.sign * math.sin(2 * math.pi * t / self.period)
        height, width = colour.shape[1:]
        x, y = pixels[0] / (width - 1) - 0.5, pixels[1] / (height - 1) - 0.5
        slope = torch.sin(2 * (self.direction[0] * x + self.direction[1] * y))
        gain = 1 + amount * (self.tint.view(3, 1, 1) + 0.5 * slope)
        return colour * gain.clamp(min=0) + 12 * amount
