"""Made-up worlds: the same seed gives the same files, and questions say what the pixels show."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cora.data.synthetic import Scene, SceneObject, questions_about, random_scene, render_panorama, write_split
from cora.data.synthetic.phrases import PHRASES, visible_phrases
from cora.data.synthetic.questions import CLOSED_TYPES
from cora.data.synthetic.world import CORNERS, PLACES
from cora.data.table import read_rows
from cora.errors import GeometryError
from cora.evaluation.closed import most_frequent_answers
from cora.evaluation.scoring import score_answers
from cora.types import ViewSpec

HEIGHT, WIDTH = 128, 256
FAR_TREE = SceneObject("tree", "", "ahead on the right", 45.0, 12.0)


def scene_with(*objects: SceneObject, balloon: SceneObject | None = None) -> Scene:
    return Scene(objects, FAR_TREE, balloon, style_seed=1)


def red_pixels(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    return (red > 90) & (green < 0.4 * red) & (blue < 0.4 * red)


def circular_mean_deg(columns: npt.NDArray[np.int64]) -> float:
    """Return the mean yaw of pixel columns of a panorama."""
    yaw = ((columns + 0.5) / WIDTH - 0.5) * 2 * math.pi
    return math.degrees(math.atan2(np.sin(yaw).mean(), np.cos(yaw).mean()))


def test_equal_seeds_give_equal_worlds_and_pixels() -> None:
    assert random_scene(11) == random_scene(11)
    assert random_scene(11) != random_scene(12)
    first, second = (render_panorama(random_scene(11), height=HEIGHT, width=WIDTH) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", ["ball", "cube", "cone", "pillar"])
@pytest.mark.parametrize("yaw_deg", [0.0, 90.0, -75.0, 179.5, -180.0])
def test_an_object_is_drawn_where_it_stands(kind: str, yaw_deg: float) -> None:
    item = SceneObject(kind, "red", "ahead", yaw_deg, 4.0)
    picture = render_panorama(scene_with(item), height=HEIGHT, width=WIDTH)
    rows, columns = np.nonzero(red_pixels(picture))
    assert len(columns) > 20
    difference = (circular_mean_deg(columns) - yaw_deg + 180.0) % 360.0 - 180.0
    # A cube seen over its edge shows one side more than the other: its middle is off by up to two pixels.
    assert abs(difference) < 2 * 360.0 / WIDTH
    # It stands on the ground, 1.6 m below the camera.
    bottom = (0.5 - (rows.max() + 1) / HEIGHT) * math.pi
    assert bottom < 0
    assert rows.min() < rows.max()


def test_an_object_on_the_seam_is_cut_by_the_edges_of_the_picture() -> None:
    picture = render_panorama(scene_with(SceneObject("ball", "red", "behind", -180.0, 3.5)), height=HEIGHT, width=WIDTH)
    seen = red_pixels(picture)
    assert seen[:, 0].any()
    assert seen[:, -1].any()
    assert not seen[:, WIDTH // 4 : -WIDTH // 4].any()
    assert abs(int(seen[:, : WIDTH // 2].sum()) - int(seen[:, WIDTH // 2 :].sum())) <= 0.2 * seen.sum()


def test_scenes_stand_on_the_seam_too() -> None:
    behind = [item.yaw_deg for seed in range(200) if (item := random_scene(seed).at("behind")) is not None]
    assert any(abs(yaw) > 178 for yaw in behind)
    assert {math.copysign(1, yaw) for yaw in behind} == {-1.0, 1.0}


def test_the_nearer_object_hides_the_farther() -> None:
    near, far = SceneObject("ball", "red", "ahead", 0.0, 3.0), SceneObject("ball", "blue", "ahead", 0.0, 6.0)
    both = red_pixels(render_panorama(scene_with(far, near), height=HEIGHT, width=WIDTH))
    alone = red_pixels(render_panorama(scene_with(near), height=HEIGHT, width=WIDTH))
    assert both.sum() == pytest.approx(alone.sum(), abs=2)


def test_answers_follow_from_the_world() -> None:
    scene = scene_with(
        SceneObject("cube", "orange", "to the left", -90.0, 5.0),
        SceneObject("cone", "green", "behind", 180.0, 3.2),
        balloon=SceneObject("balloon", "white", "above", 10.0, 6.0, elevation_deg=60.0),
    )
    answers = {question.text: question.answer for question in questions_about(scene)}
    assert answers["What is to the left?"] == "an orange cube"
    assert answers["What colour is the object behind?"] == "green"
    assert answers["What shape is the object behind?"] == "cone"
    assert answers["What is ahead?"] == "nothing"
    assert "What colour is the object ahead?" not in answers
    assert answers["How many objects stand around you?"] == "two"
    assert answers["On which side is the nearest object?"] == "behind"
    assert answers["What is above?"] == "a white balloon"
    assert answers["Where is the tree?"] == "ahead on the right"
    assert answers["Describe the scene."] == (
        "There is a green cone behind, an orange cube to the left, a tree ahead on the right and a white balloon above."
    )


def test_objects_stand_where_their_place_says() -> None:
    for seed in range(100):
        scene = random_scene(seed)
        for item in scene.objects:
            assert abs((item.yaw_deg - PLACES[item.place] + 180) % 360 - 180) <= 18.0
        assert abs((scene.landmark.yaw_deg - CORNERS[scene.landmark.place] + 180) % 360 - 180) <= 6.0
        assert len({item.place for item in scene.objects}) == len(scene.objects)


def test_blind_guessing_does_not_pay(tmp_path: Path) -> None:
    def table(name: str, first_seed: int, number: int) -> Path:
        path = tmp_path / f"{name}.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["url", "query", "annotation", "type", "answer"])
            for seed in range(first_seed, first_seed + number):
                for question in questions_about(random_scene(seed)):
                    closed = question.answer if question.kind in CLOSED_TYPES else ""
                    writer.writerow([f"{seed}.jpg", question.text, question.answer, question.kind, closed])
        return path

    train, test = read_rows(table("train", 1000, 800)), read_rows(table("test", 0, 100))
    guessed = score_answers(test, most_frequent_answers(train, test), captions=False)
    assert guessed.accuracy is not None
    assert guessed.accuracy < 0.36


def test_every_colour_and_place_is_as_frequent_as_any_other() -> None:
    items = [item for seed in range(1500) for item in random_scene(seed).objects]
    for counts in (Counter(item.colour for item in items), Counter(item.place for item in items)):
        mean = len(items) / len(counts)
        # Five standard deviations of a uniform draw.
        assert all(abs(count - mean) < 5 * math.sqrt(mean) for count in counts.values())


def test_a_view_shows_the_phrases_of_what_stands_in_it() -> None:
    scene = scene_with(SceneObject("cube", "red", "behind", 178.0, 5.0), SceneObject("ball", "blue", "ahead", 0.0, 5.0))
    expected = {0.0: "blue ball", 180.0: "red cube", -170.0: "red cube", 45.0: "tree"}
    for yaw_deg, phrase in expected.items():
        assert visible_phrases(scene, ViewSpec(0, "perspective", yaw_deg, 0, 80, 80)) == [phrase]
    assert set(expected.values()) <= set(PHRASES)


def test_phrases_are_refused_for_views_that_look_up() -> None:
    with pytest.raises(GeometryError, match="level views only"):
        visible_phrases(random_scene(0), ViewSpec(3, "perspective", 0, 30, 90, 90))


@pytest.mark.parametrize("yaw_deg", [-180.0, -140.0, -120.0, -60.0, 0.0, 60.0, 150.0])
def test_phrases_agree_with_the_picture(yaw_deg: float) -> None:
    view = ViewSpec(0, "perspective", -135.0, 0, 100, 90)
    scene = scene_with(SceneObject("ball", "red", "behind", yaw_deg, 5.0))
    red = red_pixels(render_panorama(scene, height=HEIGHT, width=WIDTH))
    offset = (((np.arange(WIDTH) + 0.5) / WIDTH - 0.5) * 360 - view.yaw_deg + 180) % 360 - 180
    assert ("red ball" in visible_phrases(scene, view)) == bool(red[:, np.abs(offset) < 50].any())


def test_a_split_is_an_ordinary_table_and_reproducible(tmp_path: Path) -> None:
    first = write_split(tmp_path / "a", "test", num_scenes=3, first_seed=5, height=32, width=64, workers=1)
    second = write_split(tmp_path / "b", "test", num_scenes=3, first_seed=5, height=32, width=64, workers=2)
    assert first.csv.read_bytes() == second.csv.read_bytes()
    for one, other in zip(first.images, second.images, strict=True):
        assert one.read_bytes() == other.read_bytes()
        with Image.open(one) as picture:
            assert picture.size == (64, 32)
    rows = read_rows(first.csv)
    assert {row.image for row in rows} == set(first.images)
    assert {row.type for row in rows} <= {*CLOSED_TYPES, "describe"}
    assert all((row.answer is None) == (row.type == "describe") for row in rows)
    assert len(rows) == sum(len(questions_about(random_scene(seed))) for seed in first.seeds)


def test_panoramas_that_exist_are_kept_and_other_sizes_rendered_again(tmp_path: Path) -> None:
    split = write_split(tmp_path, "val", num_scenes=2, first_seed=0, height=32, width=64, workers=1)
    before = [image.stat().st_mtime_ns for image in split.images]
    split.images[1].unlink()
    write_split(tmp_path, "val", num_scenes=2, first_seed=0, height=32, width=64, workers=1)
    assert split.images[0].stat().st_mtime_ns == before[0]
    assert split.images[1].exists()
    write_split(tmp_path, "val", num_scenes=2, first_seed=0, height=16, width=32, workers=1)
    with Image.open(split.images[0]) as picture:
        assert picture.size == (32, 16)


def turned_by_a_quarter(scene: Scene) -> Scene:
    """Return the scene as somebody sees it who faces what was to the left: all stands a quarter further right."""
    next_place = {old: new for ring in (PLACES, CORNERS) for old, new in pairwise([*ring, next(iter(ring))])}

    def turn(item: SceneObject) -> SceneObject:
        return replace(
            item,
            place=next_place.get(item.place, item.place),
            yaw_deg=(item.yaw_deg + 270) % 360 - 180,
            turn_deg=item.turn_deg + 90,
        )

    return replace(
        scene,
        objects=tuple(turn(item) for item in scene.objects),
        landmark=turn(scene.landmark),
        balloon=None if scene.balloon is None else turn(scene.balloon),
    )


def test_answers_marked_for_it_stay_right_when_the_panorama_is_turned(tmp_path: Path) -> None:
    changed, kept = set(), set()
    for seed in range(30):
        scene = random_scene(seed)
        turned = {question.text: question.answer for question in questions_about(turned_by_a_quarter(scene))}
        for question in questions_about(scene):
            if question.is_yaw_equivariant:
                assert turned[question.text] == question.answer
                kept.add(question.kind)
            elif turned.get(question.text) != question.answer:
                changed.add(question.kind)
    # And all others do depend on where one looks.
    assert changed == {*CLOSED_TYPES, "describe"} - kept
    assert kept == {"count", "above"}
    split = write_split(tmp_path, "val", num_scenes=3, first_seed=0, height=32, width=64, workers=1)
    assert {(row.type, row.is_yaw_equivariant) for row in read_rows(split.csv)} == {
        *((kind, True) for kind in kept),
        *((kind, False) for kind in changed),
    }
