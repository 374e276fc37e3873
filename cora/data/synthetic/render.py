"""Ray casting of a scene into an equirectangular picture: analytic shapes on textured ground under a soft sky.

Conventions are those of `cora.geometry`: pixel centres at half-integers, longitude -180 degrees at the left edge,
latitude +90 at the top. Plain numpy: rendering is data preparation and needs no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cora.data.synthetic.world import COLOURS, GROUND_Y, Scene, SceneObject

Array = npt.NDArray[np.float32]
_FAR = np.float32(1e9)


@dataclass(frozen=True)
class _Solid:
    """A convex body: `kind` is sphere, box, cylinder or cone; `base_y` its lowest point, sizes in metres."""

    kind: str
    centre_xz: tuple[float, float]
    base_y: float
    radius: float
    height: float
    turn_rad: float
    colour: tuple[float, float, float]


def _solids(item: SceneObject) -> list[_Solid]:
    """Build an object from convex bodies."""
    turn = math.radians(item.turn_deg)

    def solid(kind: str, base_y: float, radius: float, height: float, colour: tuple[float, float, float]) -> _Solid:
        return _Solid(kind, item.ground_position, base_y, radius, height, turn, colour)

    colour = COLOURS.get(item.colour, (0.5, 0.5, 0.5))
    ground = GROUND_Y
    match item.kind:
        case "ball":
            return [solid("sphere", ground, 1.05, 2.1, colour)]
        case "cube":
            return [solid("box", ground, 0.95, 1.9, colour)]
        case "cone":
            return [solid("cone", ground, 1.2, 2.4, colour)]
        case "pillar":
            return [solid("cylinder", ground, 0.5, 3.6, colour)]
        case "tree":
            return [
                solid("cylinder", ground, 0.45, 3.0, (0.36, 0.22, 0.10)),
                solid("sphere", ground + 2.4, 2.1, 4.2, (0.10, 0.36, 0.12)),
            ]
        case "house":
            return [
                solid("box", ground, 2.1, 2.8, (0.80, 0.72, 0.58)),
                solid("cone", ground + 2.8, 3.1, 2.2, (0.45, 0.16, 0.12)),
            ]
        case "tower":
            return [
                solid("cylinder", ground, 1.1, 6.5, (0.52, 0.52, 0.56)),
                solid("cone", ground + 6.5, 1.5, 1.8, (0.25, 0.25, 0.32)),
            ]
        case "balloon":
            centre_y = item.distance * math.sin(math.radians(item.elevation_deg))
            return [solid("sphere", centre_y - 1.5, 1.5, 3.0, colour)]
    raise ValueError(f"no shape for {item.kind!r}")


def _hit_sphere(rays: Array, solid: _Solid) -> tuple[Array, Array]:
    centre = np.array([solid.centre_xz[0], solid.base_y + solid.radius, solid.centre_xz[1]], np.float32)
    along = rays @ centre
    inside = along**2 - (centre @ centre - np.float32(solid.radius) ** 2)
    distance = np.where((inside > 0) & (along > 0), along - np.sqrt(np.maximum(inside, 0)), _FAR)
    normal = (rays * distance[..., None] - centre) / np.float32(solid.radius)
    return distance, normal


def _hit_box(rays: Array, solid: _Solid) -> tuple[Array, Array]:
    """Slab test in the frame of the box, whose vertical axis is turned by `turn_rad`."""
    cos, sin = math.cos(solid.turn_rad), math.sin(solid.turn_rad)
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], np.float32)
    half = np.array([solid.radius, solid.height / 2, solid.radius], np.float32)
    centre = np.array([solid.centre_xz[0], solid.base_y + solid.height / 2, solid.centre_xz[1]], np.float32)
    local_rays, local_centre = rays @ turn.T, turn @ centre
    slope = 1 / np.where(np.abs(local_rays) < 1e-6, np.float32(1e-6), local_rays)
    entry = np.minimum((local_centre - half) * slope, (local_centre + half) * slope)
    leave = np.maximum((local_centre - half) * slope, (local_centre + half) * slope)
    near, axis = entry.max(-1), entry.argmax(-1)
    distance = np.where((near <= leave.min(-1)) & (near > 0), near, _FAR)
    normal = np.zeros_like(rays)
    np.put_along_axis(normal, axis[..., None], -np.sign(np.take_along_axis(local_rays, axis[..., None], -1)), -1)
    return distance, normal @ turn


def _hit_round(rays: Array, solid: _Solid) -> tuple[Array, Array]:
    """Side of a vertical cylinder or cone, whose radius falls linearly with height to `radius * (1 - taper)`.

    The ends are left out: tops are above the camera, and of the bottoms only the rim of a roof would show.
    """
    taper = 1.0 if solid.kind == "cone" else 0.0
    slope = np.float32(taper * solid.radius / solid.height)
    start_radius = np.float32(solid.radius) + slope * np.float32(solid.base_y)
    x0, z0 = solid.centre_xz
    x, y, z = rays[..., 0], rays[..., 1], rays[..., 2]
    # |(t x - x0, t z - z0)| = start_radius - slope * t y, a quadratic in the distance t.
    a = x * x + z * z - (slope * y) ** 2
    b = -(x * x0 + z * z0) + slope * y * start_radius
    c = np.float32(x0 * x0 + z0 * z0) - start_radius**2
    root = b * b - a * c
    safe = np.where(np.abs(a) < 1e-7, np.float32(1e-7), a)
    distance = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / safe, _FAR)
    height = distance * y - np.float32(solid.base_y)
    distance = np.where((distance > 0) & (height >= 0) & (height <= solid.height), distance, _FAR)
    side = np.stack([distance * x - x0, np.zeros_like(x), distance * z - z0], -1)
    side /= np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-6)
    side[..., 1] = slope
    normal = side / np.linalg.norm(side, axis=-1, keepdims=True)
    return distance, normal


_HIT = {"sphere": _hit_sphere, "box": _hit_box, "cylinder": _hit_round, "cone": _hit_round}


def _window(solid: _Solid, height: int, width: int) -> tuple[slice, npt.NDArray[np.int64]]:
    """Rows and (wrapped) columns that can see a body; generous, so that no edge is cut."""
    x0, z0 = solid.centre_xz
    ground_distance = math.hypot(x0, z0)
    reach = math.sqrt(2.0) * solid.radius
    nearest = max(ground_distance - reach, 0.3)
    top = math.atan2(
        solid.base_y + solid.height, nearest if solid.base_y + solid.height > 0 else ground_distance + reach
    )
    bottom = math.atan2(solid.base_y, nearest if solid.base_y < 0 else ground_distance + reach)
    rows = slice(
        max(int((0.5 - top / math.pi) * height) - 1, 0), min(int((0.5 - bottom / math.pi) * height) + 2, height)
    )
    half_angle = math.asin(min(reach / max(ground_distance, reach), 1.0)) + 2 * math.pi / width
    if solid.base_y + solid.height > 2.0 * ground_distance:  # near the zenith longitudes spread out
        half_angle = math.pi
    centre = (math.atan2(x0, z0) / (2 * math.pi) + 0.5) * width
    half = min(int(half_angle / (2 * math.pi) * width) + 2, width // 2)
    columns = np.arange(int(centre) - half, int(centre) + half) % width
    return rows, columns


def _rays(height: int, width: int) -> Array:
    longitude = ((np.arange(width, dtype=np.float32) + 0.5) / width - 0.5) * 2 * np.pi
    latitude = (0.5 - (np.arange(height, dtype=np.float32) + 0.5) / height) * np.pi
    cos_latitude = np.cos(latitude)[:, None]
    up = np.broadcast_to(np.sin(latitude)[:, None], (height, width))
    return np.stack([cos_latitude * np.sin(longitude), up, cos_latitude * np.cos(longitude)], -1).astype(np.float32)


def _background(rays: Array, generator: np.random.Generator) -> Array:
    """Sky with soft bands of cloud over ground with a checked or rippled texture that fades towards the horizon."""
    up = rays[..., 1]
    zenith = np.array([0.25, 0.45, 0.75], np.float32) * np.float32(generator.uniform(0.7, 1.15))
    horizon = np.array([0.72, 0.78, 0.84], np.float32) * np.float32(generator.uniform(0.85, 1.05))
    blend = np.clip(up, 0, 1)[..., None] ** np.float32(0.6)
    phase = generator.uniform(0, 2 * np.pi, size=3).astype(np.float32)
    cloud = np.sin(5 * rays[..., 0] + phase[0]) * np.sin(4 * rays[..., 2] + phase[1]) * np.sin(7 * up + phase[2])
    sky = horizon * (1 - blend) + zenith * blend + np.float32(0.06) * cloud[..., None]

    base = generator.uniform(0.22, 0.5) + generator.uniform(-0.06, 0.06, size=3)
    distance = np.float32(GROUND_Y) / np.minimum(up, np.float32(-1e-3))
    x, z = rays[..., 0] * distance, rays[..., 2] * distance
    cell = np.float32(generator.uniform(1.0, 2.0))
    if generator.random() < 0.5:
        texture = np.sign(np.sin(np.pi * x / cell) * np.sin(np.pi * z / cell))
    else:
        angle = generator.uniform(0, np.pi)
        texture = np.sin(2 * np.pi * (x * np.float32(math.cos(angle)) + z * np.float32(math.sin(angle))) / cell)
    texture = texture * np.exp(-distance / 7) * np.float32(0.07)
    ground = base.astype(np.float32) + texture[..., None]
    haze = np.exp(-distance / 45)[..., None]
    ground = ground * haze + horizon * np.float32(0.8) * (1 - haze)
    return np.where((up > 0)[..., None], sky, ground).astype(np.float32)


def render_panorama(scene: Scene, *, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return the scene as an equirectangular picture, uint8 [height, width, 3]."""
    generator = np.random.default_rng(scene.style_seed)
    rays = _rays(height, width)
    picture = _background(rays, generator)
    depth = np.full((height, width), _FAR, np.float32)
    azimuth = generator.uniform(0, 2 * math.pi)
    light = np.array([0.6 * math.sin(azimuth), 0.75, 0.6 * math.cos(azimuth)], np.float32)
    light /= np.linalg.norm(light)
    for solid in (solid for item in scene.everything for solid in _solids(item)):
        rows, columns = _window(solid, height, width)
        distance, normal = _HIT[solid.kind](rays[rows][:, columns], solid)
        shade = 0.55 + 0.45 * np.clip(normal @ light, 0, 1)
        seen = distance < depth[rows][:, columns]
        lit = np.asarray(solid.colour, np.float32) * shade[..., None]
        depth[rows, columns] = np.where(seen, distance, depth[rows, columns])
        picture[rows, columns] = np.where(seen[..., None], lit, picture[rows, columns])
    noise = np.float32(0.012) * generator.standard_normal(picture.shape, dtype=np.float32)
    return (np.clip(picture + noise, 0, 1) * 255 + 0.5).astype(np.uint8)
