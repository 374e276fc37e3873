"""Questions about a scene whose answers follow from it, by type.

Every closed type is drawn so that guessing does not pay: colours, shapes, counts and places are uniform, so the best
blind answer is right about as often as one over the number of answers. Only "nothing" is more frequent: three places
in eight are empty, and one sky in five.
"""

from __future__ import annotations

from dataclasses import dataclass

from cora.data.synthetic.world import PLACES, Scene, SceneObject

# The answers that name no direction, and are not asked about one.
_TURNED_ALIKE = ("count", "above")
CLOSED_TYPES = ("colour", "shape", "what", "count", "nearest", "above", "where")


@dataclass(frozen=True)
class Question:
    """A question with its answer; `kind` is one of `CLOSED_TYPES` or ``describe``."""

    kind: str
    text: str
    answer: str

    @property
    def is_yaw_equivariant(self) -> bool:
        """Whether the answer stays right when the panorama is turned."""
        return self.kind in _TURNED_ALIKE


def _name(item: SceneObject) -> str:
    phrase = f"{item.colour} {item.kind}".strip()
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def _describe(scene: Scene) -> str:
    ordered = [item for place in PLACES if (item := scene.at(place)) is not None]
    parts = [f"{_name(item)} {item.place}" for item in ordered]
    parts.append(f"{_name(scene.landmark)} {scene.landmark.place}")
    if scene.balloon is not None:
        parts.append(f"{_name(scene.balloon)} above")
    return "There is " + ", ".join(parts[:-1]) + f" and {parts[-1]}."


def questions_about(scene: Scene) -> list[Question]:
    """Return every question a scene can answer; about an empty place only what stands there is asked."""
    questions = []
    for place in PLACES:
        item = scene.at(place)
        questions.append(Question("what", f"What is {place}?", "nothing" if item is None else _name(item)))
        if item is not None:
            questions.append(Question("colour", f"What colour is the object {place}?", item.colour))
            questions.append(Question("shape", f"What shape is the object {place}?", item.kind))
    numbers = ("zero", "one", "two", "three", "four")
    questions.append(Question("count", "How many objects stand around you?", numbers[len(scene.objects)]))
    if len(scene.objects) > 1:
        questions.append(Question("nearest", "On which side is the nearest object?", scene.nearest().place))
    above = "nothing" if scene.balloon is None else _name(scene.balloon)
    questions.append(Question("above", "What is above?", above))
    questions.append(Question("where", f"Where is the {scene.landmark.kind}?", scene.landmark.place))
    questions.append(Question("describe", "Describe the scene.", _describe(scene)))
    return questions
