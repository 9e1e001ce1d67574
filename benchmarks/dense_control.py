"""What the data allow: nano's vision encoder with a dense regression head, on the images that nano trains on.

    python benchmarks/dense_control.py [--data DIR] [--val DIR] [--images N] [--checkpoint FILE] [--json] [key=value]
    python benchmarks/dense_control.py --quick

The control takes text out of nano: same vision encoder (same initial weights), a linear head on every image token that
predicts the log distance of the labelled point of its cell (the labels behind the recipe's image words), L1 loss in the
log. Images, views, crops, batches, optimizer and learning rates are those of the recipe's stages, one after the other,
read from the recipe (`key=value` changes it, as in `depthlm train`). No language model runs: it is cheaper per image.
Headline: delta1 on the points that `depthlm eval` would choose of the held-out set, each answered by the prediction of
the cell it lies in. A cell is one image token wide: a point near a depth edge may get its neighbour's answer, which
holds the control back a little and nano not.

The full figure comes without --quick: as many images as the recipe's stages see, on two cores about an hour; with
--checkpoint it can be stopped at any time and goes on from there. --quick renders a few rooms and shows that it runs.
"""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import get_scheduler

from depthlm.errors import InputError
from depthlm.evaluation.evaluator import EvaluationConfig
from depthlm.evaluation.points import choose_points
from depthlm.metrics import absrel, best_constant, bootstrap_interval, delta1, is_correct, rmse
from depthlm.models.chat import collate_images
from depthlm.models.processor import ThinProcessor
from depthlm.models.vision_attention import pictures_together
from depthlm.synth.generate import synth_samples
from depthlm.training.optimizer import build_optimizer
from depthlm.training.recipe import DataSource, Recipe, Stage, load_recipe
from depthlm.training.run import start_model
from depthlm.training.stage import open_source, stage_rows
from depthlm.view import ViewConfig, make_view

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples
    from depthlm.training.dataset import TrainingRows

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "nano.yaml"
QUICK = {"images": 64, "points": 512, "scenes": 8}
SAVE_SECONDS = 180.0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 1 when a check fails."""
    defaults = EvaluationConfig()
    options = common.parser(__doc__)
    options.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    options.add_argument("--recipe", type=Path, default=RECIPE, help="the run that is compared with")
    options.add_argument("--data", help="shards to train on (default: the recipe's, rendered when missing)")
    options.add_argument("--val", help="held-out shards (default: the recipe's)")
    options.add_argument("--images", type=int, help="training images (default: as many as the recipe's stages see)")
    options.add_argument("--batch", type=int, help="images per step (default: each stage's own)")
    options.add_argument("--points", type=int, help=f"held-out points (default: {defaults.points})")
    options.add_argument("--seed", type=int, default=defaults.seed, help="of the choice of held-out points")
    options.add_argument("--checkpoint", type=Path, help="saved here every few minutes; goes on from it when it exists")
    return common.run(options, measure, argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, score, and say both."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    for name in ("images", "batch", "points"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise InputError(f"--{name} is {value}; expected 1 or more")
    if arguments.data is not None:
        recipe.data = [DataSource(path=arguments.data)]
    if arguments.val is not None:
        recipe.eval = DataSource(path=arguments.val)
    if recipe.eval is None:
        raise InputError(f"{arguments.recipe}: the recipe has no eval set; give --val")
    images = arguments.images or (QUICK["images"] if arguments.quick else None)
    recipe.stages = plan(recipe, images, arguments.batch)
    points = arguments.points or (QUICK["points"] if arguments.quick else EvaluationConfig().points)
    train = [open_data(source, arguments.quick) for source in recipe.data]
    held_out = open_data(recipe.eval, arguments.quick)
    loaded = start_model(recipe, train)
    control = Control(loaded, recipe)
    run = Run(arguments.checkpoint)
    run.train(control, recipe, loaded, train)
    scores = score(control, held_out, recipe, loaded, points, arguments.seed)
    losses = run.losses
    tenth = max(1, len(losses) // 10)
    return {
        "headline": {"control_delta1": scores["delta1"]},
        "checks": {
            "loss_fell": float(np.mean(losses[-tenth:])) < float(np.mean(losses[:tenth])),
            "every_chosen_point_scored": scores["n"] == min(points, sum(len(sample) for sample in _each(held_out))),
            # A few steps teach nothing yet: only the whole run can be held to this.
            **({} if arguments.quick else {"beats_the_best_constant": scores["delta1"] > scores["floor_delta1"]}),
        },
        "config": {
            "recipe": recipe.name, "data": name_data(recipe.data, arguments.quick),
            "val": name_data([recipe.eval], arguments.quick),
            "seed": arguments.seed, "overrides": arguments.overrides, "quick": arguments.quick, "images": seen(recipe),
            "stages": [[s.name, s.steps, s.batch * s.accumulate, s.optimizer, s.lr] for s in recipe.stages],
            "label": loaded.card.label,
            "parameters": sum(parameter.numel() for parameter in control.parameters()),
            "device": str(control.device),
        },
        **scores,
        "train_loss": float(np.mean(losses[-tenth:])),
        "train_images_per_s": run.images / max(1e-9, run.seconds),
        "train_seconds": run.seconds,
    }  # fmt: skip


def plan(recipe: Recipe, images: int | None, batch: int | None) -> list[Stage]:
    """The recipe's stages shortened (or lengthened) together to `images` images in all, in steps of `batch`."""
    share = 1.0 if images is None else images / seen(recipe)
    stages = []
    for stage in recipe.stages:
        whole = stage.steps * stage.batch * stage.accumulate
        size = batch or stage.batch * stage.accumulate
        stages.append(replace(stage, steps=max(1, round(whole * share / size)), batch=size, accumulate=1))
    return stages


def seen(recipe: Recipe) -> int:
    """Images that the recipe's stages see, one process."""
    return sum(stage.steps * stage.batch * stage.accumulate for stage in recipe.stages)


def open_data(source: DataSource, quick: bool) -> Samples:
    """A data set of the recipe; when quick, only a few of its rooms, rendered into memory."""
    if not quick or source.synth is None:
        return open_source(source, common.progress)
    s = source.synth
    return list(
        synth_samples(
            QUICK["scenes"], seed=s.seed, kind=s.kind, views=s.views, size=s.size, focal_range=s.focal_range,
            points=s.points,
        )
    )  # fmt: skip


def name_data(sources: Sequence[DataSource], quick: bool) -> list[str]:
    """What `open_data` opened, for the record."""
    return [f"{QUICK['scenes']} rooms of seed {s.synth.seed}" if quick and s.synth else s.path for s in sources]


def _each(samples: Samples) -> Iterable[Any]:
    return (samples[i] for i in range(len(samples)))


class Control(nn.Module):
    """Views -> log metres at every image token."""

    def __init__(self, loaded: LoadedModel, recipe: Recipe) -> None:
        super().__init__()
        assert isinstance(loaded.processor, ThinProcessor)
        self.processor = loaded.processor
        self.visual = loaded.model.model.visual
        torch.manual_seed(recipe.seed)
        # By this name the optimizer treats it as nano's head: AdamW, no decay.
        self.lm_head = nn.Linear(self.visual.config.out_hidden_size, 1)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.to(self.device)

    def forward(self, pixels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Encoded views -> [sum of their cells] log metres, image after image in reading order."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            features = self.visual(
                pixels["pixel_values"].to(self.device), grid_thw=pixels["image_grid_thw"].to(self.device)
            ).pooler_output
        result: torch.Tensor = self.lm_head(features.float()).squeeze(-1)
        return result


class Cells(Dataset[tuple[dict[str, torch.Tensor], torch.Tensor]]):
    """A stage's views, encoded, each with what its cells measure ([cells] metres, NaN for none), by step index."""

    def __init__(self, rows: TrainingRows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        view, cells = self.rows.view_and_cells(index)
        return self.rows.processor.encode_images([view.image]), torch.from_numpy(cells.ravel()).float()


def collate(batch: Sequence[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> tuple[dict[str, torch.Tensor], Any]:
    """Views after each other, and their cells likewise."""
    return collate_images([pixels for pixels, _ in batch]), torch.cat([cells for _, cells in batch])


@dataclass
class Run:
    """A training run that can be stopped: where it is, and what it has seen."""

    checkpoint: Path | None
    stage: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def train(self, control: Control, recipe: Recipe, loaded: LoadedModel, data: Sequence[Samples]) -> None:
        """All stages, from the checkpoint on when there is one."""
        saved = self._load(control, recipe)
        control.train()
        for number in range(self.stage, len(recipe.stages)):
            stage = recipe.stages[number]
            self.stage = number
            rows = stage_rows(recipe, stage, loaded, data)
            optimizer = build_optimizer(control, name=stage.optimizer, lr=stage.lr, weight_decay=stage.weight_decay)
            schedule = get_scheduler(
                "cosine_with_min_lr",
                optimizer=optimizer,
                num_warmup_steps=math.ceil(stage.warmup * stage.steps),
                num_training_steps=stage.steps,
                scheduler_specific_kwargs={"min_lr_rate": stage.final_lr},
            )
            if saved is not None:
                optimizer.load_state_dict(saved["optimizer"])
                schedule.load_state_dict(saved["schedule"])
                saved = None
            self._train_stage(control, recipe, stage, rows, optimizer, schedule)
            self.stage, self.step = number + 1, 0
            self._save(control, recipe)

    def _train_stage(
        self, control: Control, recipe: Recipe, stage: Stage, rows: TrainingRows, optimizer: Any, schedule: Any
    ) -> None:
        start = last_save = time.perf_counter()
        left = range(self.step * stage.batch, stage.steps * stage.batch)
        loader = DataLoader(
            Cells(rows), stage.batch, sampler=left, collate_fn=collate, num_workers=recipe.workers,
            pin_memory=control.device.type == "cuda",
        )  # fmt: skip
        with pictures_together(control):
            for pixels, metres in loader:
                cells = metres.to(control.device)
                known = torch.isfinite(cells)
                loss = (control(pixels)[known] - cells[known].log()).abs().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(control.parameters(), stage.clip)
                optimizer.step()
                schedule.step()
                self.losses.append(loss.item())
                self.step += 1
                self.images += stage.batch
                now = time.perf_counter()
                self.seconds, start = self.seconds + now - start, now
                if self.step % recipe.log_every == 0:
                    rate = self.images / self.seconds
                    common.progress(
                        f"{stage.name} {self.step}/{stage.steps} loss {np.mean(self.losses[-recipe.log_every :]):.3f} "
                        f"{rate:.1f} images/s eta {(seen(recipe) - self.images) / rate:.0f} s"
                    )
                if now - last_save > SAVE_SECONDS:
                    self._save(control, recipe, optimizer, schedule)
                    last_save = now

    def _save(self, control: Control, recipe: Recipe, optimizer: Any = None, schedule: Any = None) -> None:
        if self.checkpoint is None:
            return
        state = {
            "plan": repr(recipe), "stage": self.stage, "step": self.step, "images": self.images,
            "seconds": self.seconds, "losses": self.losses, "control": control.state_dict(),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "schedule": None if schedule is None else schedule.state_dict(),
        }  # fmt: skip
        temporary = self.checkpoint.with_name(f"{self.checkpoint.name}.tmp{os.getpid()}")
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, temporary)
            temporary.replace(self.checkpoint)
        except (OSError, RuntimeError) as error:
            raise InputError(f"cannot write the checkpoint {self.checkpoint} ({error})") from error

    def _load(self, control: Control, recipe: Recipe) -> dict[str, Any] | None:
        """Take up the checkpoint; the optimizer's part of it when it lies within a stage."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        try:
            saved: dict[str, Any] = torch.load(self.checkpoint, map_location=control.device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            raise InputError(f"{self.checkpoint} is no checkpoint of this script ({error})") from error
        if saved["plan"] != repr(recipe):
            raise InputError(f"{self.checkpoint} belongs to another recipe or number of images; name another file")
        control.load_state_dict(saved["control"])
        self.stage, self.step, self.images = saved["stage"], saved["step"], saved["images"]
        self.seconds, self.losses = saved["seconds"], saved["losses"]
        common.progress(f"goes on after {self.images} images")
        return None if saved["optimizer"] is None else saved


@torch.no_grad()
def score(
    control: Control, data: Samples, recipe: Recipe, loaded: LoadedModel, points: int, seed: int
) -> dict[str, Any]:
    """Figures on the points that `depthlm eval` chooses, each image whole and padded as it shows it."""
    control.eval()
    grid = control.processor.grid
    config = ViewConfig(focal=recipe.focal, grid=grid, geometry=recipe.geometry)
    chosen = choose_points([len(sample) for sample in _each(data)], points, seed)
    said, truth = [], []
    for image in np.unique(chosen[:, 0]):
        sample = data[int(image)]
        rows = chosen[chosen[:, 0] == image, 1]
        view = make_view(sample.load_image(), sample.camera, sample.uv[rows], config=config)
        cell = np.floor((view.uv + 0.5) / grid).astype(int)
        logs = (
            control(control.processor.encode_images([view.image]))
            .cpu()
            .numpy()
            .reshape(view.image.height // grid, view.image.width // grid)
        )
        said.append(np.exp(logs[cell[:, 1], cell[:, 0]].astype(np.float64)))
        truth.append((sample.distance if loaded.card.label == "distance" else sample.z)[rows])
    p, g = np.concatenate(said), np.concatenate(truth)
    constant, floor = best_constant(g)
    return {
        "n": len(g),
        "delta1": delta1(p, g),
        "delta1_ci": list(bootstrap_interval(is_correct(p, g), chosen[:, 0], seed=seed)),
        "absrel": absrel(p, g),
        "rmse": rmse(p, g),
        "log_correlation": correlation(np.log(p), np.log(g)),
        "floor_delta1": floor,
        "floor_constant": constant,
    }


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Pearson's r; None where one side does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else None


if __name__ == "__main__":
    sys.exit(main())
