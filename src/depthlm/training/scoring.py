"""Held-out scores while training: the evaluator itself, on a fixed choice of points, once per trained reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from depthlm.training.network import on_device
from depthlm.training.trainer import METRICS_FILE, append_metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from depthlm.models.loading import LoadedModel
    from depthlm.sample import Samples
    from depthlm.training.recipe import Recipe


def score_and_log(
    loaded: LoadedModel,
    held_out: Samples,
    recipe: Recipe,
    folder: Path,
    step: int,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Score every reference of the stage; one line in metrics.jsonl with delta1 of each and their mean."""
    from depthlm.evaluation.evaluator import EvaluationConfig, evaluate

    loaded = on_device(loaded)
    line: dict[str, Any] = {"step": step}
    was_training = loaded.model.training
    loaded.model.eval()
    for reference in loaded.card.references:
        config = EvaluationConfig(
            reference=reference,
            task=loaded.card.label,
            answers=loaded.card.label,
            points=recipe.eval_points,
            seed=recipe.seed,
            batch=32,
            intervals=False,
        )
        summary = evaluate(loaded, held_out, config)
        line[f"delta1_{reference}"] = summary["delta1"]
        line["floor_delta1"] = summary["floor_delta1"]
    loaded.model.train(was_training)
    scores = [line[f"delta1_{reference}"] for reference in loaded.card.references]
    line["delta1"] = sum(scores) / len(scores)
    append_metrics(folder / METRICS_FILE, line)
    report("held out: " + ", ".join(f"{key} {value}" for key, value in line.items()))
    return line


class EvaluateEvery(TrainerCallback):
    """Scores every `eval_every` steps; the end of the stage is scored by the caller.

    whole: the model as it stands in the process that scores, None in the others, which may have to help to gather it.
    """

    def __init__(
        self,
        whole: Callable[[], LoadedModel | None],
        held_out: Samples,
        recipe: Recipe,
        folder: Path,
        report: Callable[[str], None],
    ) -> None:
        self.whole, self.held_out, self.recipe, self.folder, self.report = whole, held_out, recipe, folder, report

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Score at every multiple of eval_every but the last step."""
        if state.global_step % self.recipe.eval_every == 0 and state.global_step < state.max_steps:
            loaded = self.whole()
            if loaded is not None:
                score_and_log(loaded, self.held_out, self.recipe, self.folder, state.global_step, self.report)
