"""Random scenes: what stands where. Knows nothing of pixels (see `render`) or of questions (see `questions`).

The camera stands at the origin, 1.6 m above flat ground. Axes as in `cora.geometry`: x right, y up, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.05),
    "yellow": (0.95, 0.88, 0.10),
    "green": (0.10, 0.65, 0.15),
    "cyan": (0.10, 0.80, 0.85),
    "blue": (0.12, 0.20, 0.85),
    "purple": (0.55, 0.15, 0.70),
    "white": (0.96, 0.96, 0.96),
}
SHAPES = ("ball", "cube", "cone", "pillar")
LANDMARKS = ("tree", "house", "tower")

# The yaw of each place, in degrees. Objects stand in the four main places, a landmark in one of the four between.
PLACES = {"ahead": 0.0, "to the right": 90.0, "behind": 180.0, "to the left": -90.0}
CORNERS = {
    "ahead on the right": 45.0,
    "behind on the right": 135.0,
    "behind on the left": -135.0,
    "ahead on the left": -45.0,
}

GROUND_Y = -1.6
YAW_JITTER_DEG = 18.0
CORNER_JITTER_DEG = 6.0


@dataclass(frozen=True)
class SceneObject:
    """One thing in the world.

    Attributes:
        kind: A shape, a landmark, or ``balloon``.
        colour: Name in `COLOURS`; empty for landmarks, whose colours are their own.
        place: Name in `PLACES` or `CORNERS`, or ``above``.
        yaw_deg: Direction of its centre, positive to the right, in [-180, 180).
        distance: Metres from the camera along the ground (for a balloon: to its centre).
        turn_deg: Rotation about its own vertical axis.
        elevation_deg: Height of its centre above the horizon; balloons only.
    """

    kind: str
    colour: str
    place: str
    yaw_deg: float
    distance: float
    turn_deg: float = 0.0
    elevation_deg: float = 0.0

    @property
    def ground_position(self) -> tuple[float, float]:
        """(x, z) in metres of the point below the centre."""
        horizontal = self.distance * math.cos(math.radians(self.elevation_deg))
        yaw = math.radians(self.yaw_deg)
        return horizontal * math.sin(yaw), horizontal * math.cos(yaw)


@dataclass(frozen=True)
class Scene:
    """A world: its objects and how ground and sky look.

    Attributes:
        objects: The shapes standing in the main places; at most one per place.
        landmark: A landmark in one of the corners.
        balloon: What floats above, or None.
        style_seed: Seeds the look of ground, sky and light.
    """

    objects: tuple[SceneObject, ...]
    landmark: SceneObject
    balloon: SceneObject | None
    style_seed: int

    @property
    def everything(self) -> tuple[SceneObject, ...]:
        """All objects, landmark and balloon included."""
        above = () if self.balloon is None else (self.balloon,)
        return (*self.objects, self.landmark, *above)

    def at(self, place: str) -> SceneObject | None:
        """The shape at a main place, or None."""
        return next((item for item in self.objects if item.place == place), None)

    def nearest(self) -> SceneObject:
        """The shape closest to the camera."""
        return min(self.objects, key=lambda item: item.distance)


def _wrap_deg(yaw_deg: float) -> float:
    return (yaw_deg + 180.0) % 360.0 - 180.0


def _distances(count: int, generator: np.random.Generator) -> list[float]:
    """Distances in [3, 7] m; all but the smallest are at least 1.3 times that, so that 'nearest' can be seen."""
    nearest = float(generator.uniform(3.0, 4.4))
    others = [float(value) for value in generator.uniform(1.3 * nearest, 7.0, size=count - 1)]
    distances = [nearest, *others]
    generator.shuffle(distances)
    return distances


def random_scene(seed: int) -> Scene:
    """Return the scene of a seed; equal seeds give equal scenes."""
    generator = np.random.default_rng(seed)
    # Uniform from one to four, so that no count is a good guess.
    count = int(generator.integers(1, 5))
    places = [str(place) for place in generator.choice(list(PLACES), size=count, replace=False)]
    objects = tuple(
        SceneObject(
            kind=str(generator.choice(SHAPES)),
            colour=str(generator.choice(list(COLOURS))),
            place=place,
            yaw_deg=_wrap_deg(PLACES[place] + float(generator.uniform(-YAW_JITTER_DEG, YAW_JITTER_DEG))),
            distance=distance,
            turn_deg=float(generator.uniform(0.0, 90.0)),
        )
        for place, distance in zip(places, _distances(count, generator), strict=True)
    )
    corner = str(generator.choice(list(CORNERS)))
    landmark = SceneObject(
        kind=str(generator.choice(LANDMARKS)),
        colour="",
        place=corner,
        yaw_deg=_wrap_deg(CORNERS[corner] + float(generator.uniform(-CORNER_JITTER_DEG, CORNER_JITTER_DEG))),
        distance=float(generator.uniform(10.0, 14.0)),
        turn_deg=float(generator.uniform(0.0, 90.0)),
    )
    balloon = None
    if generator.random() < 0.8:
        balloon = SceneObject(
            kind="balloon",
            colour=str(generator.choice(list(COLOURS))),
            place="above",
            yaw_deg=float(generator.uniform(-180.0, 180.0)),
            distance=float(generator.uniform(5.0, 6.5)),
            elevation_deg=float(generator.uniform(55.0, 70.0)),
        )
    return Scene(objects, landmark, balloon, style_seed=int(generator.integers(2**31)))
