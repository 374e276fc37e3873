"""The folder a quickstart works in: each step makes one thing, or finds that it is there already."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig
from cora.data.synthetic import SplitFiles, write_split
from cora.errors import ConfigError
from cora.files import write_json
from cora.processors.images import PanoramaImageProcessor
from cora.training.build import build_model, image_options
from cora.training.curves import plot_curves_of_run
from cora.training.towers import make_language_tower, make_vision_tower
from cora.training.towers.vision import VisionTowerOptions
from cora.training.trainer import CORATrainer

__all__ = ["Workspace"]

logger = logging.getLogger(__name__)

# Scenes are numbered; these are the first numbers of each split and of the texts the language tower reads.
FIRST_SEEDS = {"test": 0, "val": 50_000, "train": 100_000}
TEXT_SEED = 10_000_000
VAL_SCENES = 64


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Workspace:
    """``<runs_dir>/quickstart``: panoramas, towers, and a note of what was made from which options.

    Args:
        folder: The folder; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._notes_path = folder / "made.json"
        self._notes: dict[str, Any] = json.loads(self._notes_path.read_text()) if self._notes_path.exists() else {}

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Workspace]:
        """Yield the workspace, which no other process can have meanwhile.

        Raises:
            ConfigError: Another quickstart is using it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"another quickstart is working in {folder}; wait for it or give --runs-dir"
                ) from None
            yield cls(folder)

    def _is_made(self, name: str, options: Any) -> bool:
        return bool(self._notes.get(name, {}).get("options") == _digest(options))

    def _note(self, name: str, options: Any, **facts: Any) -> None:
        self._notes[name] = {"options": _digest(options), **facts}
        write_json(self._notes_path, self._notes)

    def make_data(self, *, train_scenes: int, test_scenes: int) -> dict[str, SplitFiles]:
        """Render the panoramas of all splits and write their tables; panoramas that exist are kept."""
        numbers = {"train": train_scenes, "val": min(VAL_SCENES, train_scenes), "test": test_scenes}
        logger.info("making %d panoramas in %s", sum(numbers.values()), self.folder / "data")
        return {
            split: write_split(self.folder / "data", split, num_scenes=number, first_seed=FIRST_SEEDS[split])
            for split, number in numbers.items()
        }

    def load_config(self, path: Path, *, runs_dir: Path, overrides: Sequence[str]) -> CORAConfig:
        """Return the configuration with its data and towers in this workspace."""
        places = {
            "models.vision_name": self.folder / "towers" / "vision",
            "models.language_model_name": self.folder / "towers" / "language",
            "data.csv_train": self.folder / "data" / "train.csv",
            "data.csv_val": self.folder / "data" / "val.csv",
            "output.runs_dir": runs_dir,
        }
        ours = [f"{key}={json.dumps(str(value))}" for key, value in places.items()]
        return ConfigManager.load(path, overrides=[*ours, *overrides], strict=True)

    def make_towers(self, config: CORAConfig, train: SplitFiles, *, steps: int) -> None:
        """Pretrain the vision and the language tower."""
        system_message, seed = config.training.system_msg, config.training.seed
        images = image_options(config.image_processing)
        language_options = [system_message]
        if not self._is_made("language tower", language_options):
            folder = Path(config.models.language_model_name)
            loss = make_language_tower(folder, system_message=system_message, first_seed=TEXT_SEED)
            self._note("language tower", language_options, loss=loss)
        vision_options = [images, len(train.seeds), steps, seed]
        if not self._is_made("vision tower", vision_options):
            processor = PanoramaImageProcessor.from_dict(images)
            options = VisionTowerOptions(steps=steps)
            folder = Path(config.models.vision_name)
            score = make_vision_tower(folder, train, processor, options=options, seed=seed)
            self._note("vision tower", vision_options, f1=score)

    def train(self, config: CORAConfig) -> Path:
        """Run the stages and return the run folder; it also gets an export of the model as it was before."""
        options = [config.known(), self._notes["vision tower"], self._notes["language tower"]]
        if self._is_made("run", options) and (run_dir := Path(self._notes["run"]["run_dir"])).is_dir():
            logger.info("the model of these options is trained already: %s", run_dir)
            return run_dir
        result = CORATrainer(config).train()
        model, processor = build_model(config)
        model.export(result.run_dir / "untrained", processor)
        plot_curves_of_run(result.run_dir, config.training.stages, result.run_dir / "learning_curve.png")
        self._note("run", options, run_dir=str(result.run_dir))
        return result.run_dir
