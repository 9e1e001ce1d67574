"""DepthTrainer: transformers' Trainer on packed rows, and what it writes while it runs."""

from __future__ import annotations

import json
import math
import shutil
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, get_scheduler

from depthlm.claim import write_text
from depthlm.errors import InputError
from depthlm.training.loss import answer_loss
from depthlm.training.optimizer import build_optimizer
from depthlm.training.ranks import Ranks
from depthlm.training.reward import reward_loss, token_metres
from depthlm.training.rows import collate_parts, collate_rows, without_loss
from depthlm.training.safety import SAVING, publish_checkpoint, refuse_checkpoint, refuse_loss
from depthlm.training.sharding import is_sharded, load_shards, save_shards
from depthlm.training.stopping import children_ignore_sigterm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import TrainerControl, TrainerState

    from depthlm.models.processor import ThinProcessor
    from depthlm.training.dataset import TrainingRows
    from depthlm.training.recipe import Recipe, Stage

METRICS_FILE = "metrics.jsonl"
SCHEDULER_FILE = "scheduler.pt"


class DepthTrainer(Trainer):
    """Answer-only loss, our optimizer and schedule, and rows in the order of their index."""

    def __init__(self, *, stage: Stage, processor: ThinProcessor, rows: TrainingRows, **kwargs: Any) -> None:
        self.stage = stage
        self._saving = False
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        self.loss_of: Callable[..., tuple[torch.Tensor, dict[str, float]]] = partial(
            answer_loss, word_weight=stage.image_words
        )
        if stage.loss == "reward":
            self.loss_of = partial(reward_loss, metres=token_metres(processor, rows.prompt), group=stage.group)
        self.seen = {"labels": 0.0, "tokens": 0.0, "images": 0.0, "answer_loss": 0.0, "word_loss": 0.0, "batches": 0.0}
        collate = partial(collate_rows, processor)
        if stage.tokens_per_batch is not None:
            collate = partial(collate_parts, processor, most=stage.tokens_per_batch)
        super().__init__(train_dataset=rows, data_collator=collate, **kwargs)
        self.remove_callback(PrinterCallback)  # RunLog reports; stdout belongs to the CLI
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the answer tokens of the whole step

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a batch; of one that is cut, part by part."""
        step = partial(super().training_step, model, num_items_in_batch=num_items_in_batch)
        if "parts" not in inputs:
            return step(inputs)
        parts: list[dict[str, Any]] = inputs["parts"]
        if is_sharded(self.model):  # layers are gathered by all processes at once: all go through them equally often
            parts = [without_loss(parts[-1])] * (Ranks().most(len(parts)) - len(parts)) + parts
        losses = []
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                losses.append(step(part))
        return torch.stack(losses).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Loss of one micro-batch; keeps the tallies that the log divides by time."""
        inner = self.accelerator.unwrap_model(model)
        network = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        # Through the wrapper's own forward: DDP and FSDP synchronise gradients and gather weights nowhere else.
        # accelerate hangs autocast on the forward that is replaced here.
        with (
            self.accelerator.autocast(),
            _forward(inner, partial(self.loss_of, network)),
        ):
            loss, parts = model(inputs, items=num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # items are those of all; gradients will be averaged
        if parts["labels"]:
            self.seen["tokens"] += float((inputs["attention_mask"].diagonal(dim1=-2, dim2=-1)).sum())
            self.seen["images"] += len(inputs["input_ids"])
            self.seen["batches"] += 1
        for key, value in parts.items():
            self.seen[key] += value
        if not math.isfinite(value := loss.item()):
            raise refuse_loss(Path(self.args.output_dir), self.state.global_step, value, inputs)
        return loss

    def get_batch_samples(self, *args: Any) -> Any:
        """The micro-batches of a step. The first call starts the loader processes."""
        with children_ignore_sigterm():
            return super().get_batch_samples(*args)

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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model's own files; of a sharded one only its checkpoints are written, with the optimizer's parts."""
        if not is_sharded(self.model):
            super().save_model(output_dir, _internal_call)
        elif output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not isinstance(self.model, PreTrainedModel):  # adapters
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            # Under the names that the model has in memory: Trainer resumes without translating those of a hub.
            self.model.save_pretrained(output_dir, state_dict=state_dict, save_original_format=False)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        strange = {*load_result.missing_keys, *load_result.unexpected_keys} - tied
        if strange:  # a warning would let the run go on from its first weights
            raise InputError(
                f"the checkpoint in {self.args.output_dir} does not fit its model, as in {min(strange)}; remove it to"
                " train from the one before, or from the beginning"
            )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(Path(output_dir), self.model, self._plain_optimizer())
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not is_sharded(self.model):  # else weights and optimizer are read together, below
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_shards(Path(checkpoint), self.model, self._plain_optimizer())
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_FILE, weights_only=True))

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # without accelerate's
        return optimizer

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        if not is_sharded(model):  # whose parts are where they belong
            super()._move_model_to_device(model, device)

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
            write_text(self.path, "".join(line + "\n" for line in lines))

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
        ddp_find_unused_parameters=False,  # every parameter takes part in every step
    )
