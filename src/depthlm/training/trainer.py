"""DepthTrainer: transformers' Trainer on packed rows, and what it writes while it runs."""

from __future__ import annotations

import json
import math
import shutil
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, get_scheduler

from depthlm.training.loss import answer_loss
from depthlm.training.optimizer import build_optimizer
from depthlm.training.rows import collate_rows
from depthlm.training.safety import SAVING, publish_checkpoint, refuse_checkpoint, refuse_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import TrainerControl, TrainerState

    from depthlm.models.processor import ThinProcessor
    from depthlm.training.dataset import TrainingRows
    from depthlm.training.recipe import Recipe, Stage

METRICS_FILE = "metrics.jsonl"


class DepthTrainer(Trainer):
    """Answer-only loss, our optimizer and schedule, and rows in the order of their index."""

    def __init__(self, *, stage: Stage, processor: ThinProcessor, rows: TrainingRows, **kwargs: Any) -> None:
        self.stage = stage
        self._saving = False
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        self.seen = {"labels": 0.0, "tokens": 0.0, "images": 0.0, "answer_loss": 0.0, "word_loss": 0.0, "batches": 0.0}
        super().__init__(train_dataset=rows, data_collator=lambda batch: collate_rows(processor, batch), **kwargs)
        self.remove_callback(PrinterCallback)  # RunLog reports; stdout belongs to the CLI
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the answer tokens of the whole step

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Loss of one micro-batch; keeps the tallies that the log divides by time."""
        inner = self.accelerator.unwrap_model(model)
        network = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        # Through the wrapper's own forward: DDP and FSDP synchronise gradients and gather weights nowhere else.
        with _forward(inner, partial(answer_loss, network, word_weight=self.stage.image_words)):
            loss, parts = model(inputs, items=num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # items are those of all; gradients will be averaged
        self.seen["tokens"] += float((inputs["attention_mask"].diagonal(dim1=-2, dim2=-1)).sum())
        self.seen["images"] += len(inputs["input_ids"])
        self.seen["batches"] += 1
        for key, value in parts.items():
            self.seen[key] += value
        if not math.isfinite(value := loss.item()):
            raise refuse_loss(Path(self.args.output_dir), self.state.global_step, value, inputs)
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Written under another name first: a process killed meanwhile must leave no checkpoint that is half there.
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(folder / SAVING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as RuntimeError
            raise refuse_checkpoint(folder, error) from error
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish_checkpoint(folder, f"checkpoint-{self.state.global_step}")

    def _get_output_dir(self, trial: Any) -> str:
        folder: str = super()._get_output_dir(trial)
        return str(Path(folder) / SAVING) if self._saving else folder

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW or Muon, as the stage says."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(
                self.model, name=self.stage.optimizer, lr=self.stage.lr, weight_decay=self.stage.weight_decay
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Cosine with linear warm-up down to final_lr of the peak."""
        if self.lr_scheduler is None:
            self.lr_scheduler = get_scheduler(
                "cosine_with_min_lr",
                optimizer=self.optimizer if optimizer is None else optimizer,
                num_warmup_steps=math.ceil(self.stage.warmup * num_training_steps),
                num_training_steps=num_training_steps,
                scheduler_specific_kwargs={"min_lr_rate": self.stage.final_lr},
            )
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        # The mixture already permutes: the order IS the index, which is what makes resuming exact.
        return SequentialSampler(self.train_dataset)


@contextmanager
def _forward(network: torch.nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """While it is entered, calling the network calls the function."""
    before = network.__dict__.get("forward")
    network.forward = function
    try:
        yield
    finally:
        if before is None:
            del network.forward
        else:
            network.forward = before


class RunLog(TrainerCallback):
    """metrics.jsonl: one line per log, with rates; `report` receives the same for the terminal."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self.path = folder / METRICS_FILE
        self.report = report
        self.trainer: DepthTrainer | None = None
        self.last: tuple[float, int] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, and drop the lines of steps that a resumed run will do again."""
        self.last = (time.perf_counter(), state.global_step)
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= state.global_step]
            self.path.write_text("".join(line + "\n" for line in lines))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line."""
        if self.trainer is None or self.last is None or not logs or "loss" not in logs:
            return
        now, seen = time.perf_counter(), self.trainer.seen
        seconds, steps = max(1e-9, now - self.last[0]), state.global_step - self.last[1]
        batches = max(1.0, seen["batches"])
        line = {
            "step": state.global_step,
            "loss": logs["loss"],
            "answer_loss": round(seen["answer_loss"] / batches, 4),
            "lr": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "labels_per_s": round(seen["labels"] / seconds, 1),
            "tokens_per_s": round(seen["tokens"] / seconds, 1),
            "images_per_s": round(seen["images"] / seconds, 2),
            "eta_s": round((state.max_steps - state.global_step) * seconds / max(1, steps)),
        }
        if seen["word_loss"]:
            line["word_loss"] = round(seen["word_loss"] / batches, 4)
        self.last = (now, state.global_step)
        for key in seen:
            seen[key] = 0.0
        append_metrics(self.path, line)
        self.report(
            f"step {line['step']}/{state.max_steps} loss {line['loss']} {line['labels_per_s']} labels/s "
            f"{line['tokens_per_s']} tokens/s eta {line['eta_s']} s"
        )


def _step_of(line: str) -> float:
    """Of a line of metrics; beyond all steps for one that was being written when the process was killed."""
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Append one JSON line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def training_arguments(recipe: Recipe, stage: Stage, folder: Path) -> TrainingArguments:
    """Our stage in transformers' terms; bf16 where the accelerator has it, float32 on CPU."""
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch,
        gradient_accumulation_steps=stage.accumulate,
        learning_rate=stage.lr,
        max_grad_norm=stage.clip,
        bf16=cuda and torch.cuda.is_bf16_supported(),
        use_cpu=not (cuda or torch.backends.mps.is_available()),
        seed=recipe.seed,
        logging_steps=recipe.log_every,
        save_steps=recipe.save_every,
        dataloader_num_workers=recipe.workers,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        report_to=["tensorboard"],
        disable_tqdm=True,
        log_level="error",
        logging_nan_inf_filter=False,
    )
