"""Made-up panoramas with known answers: small 3-D worlds, rendered, questioned and written as an ordinary data set."""

from cora.data.synthetic.questions import Question, questions_about
from cora.data.synthetic.render import render_panorama
from cora.data.synthetic.world import Scene, SceneObject, random_scene
from cora.data.synthetic.writer import SplitFiles, write_split

__all__ = [
    "Question",
    "Scene",
    "SceneObject",
    "SplitFiles",
    "questions_about",
    "random_scene",
    "render_panorama",
    "write_split",
]
