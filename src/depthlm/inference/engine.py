"""Engine: questions about points in, numbers out. Greedy decoding for every model family, shared where it can be."""

from __future__ import annotations

import hashlib
import json
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthlm.errors import InputError
from depthlm.inference.backend import Backend
from depthlm.inference.interval import NumberBeam, whole_step
from depthlm.inference.numbers import MOST_TOKENS, NumberEnds, NumberVocabulary, find_number
from depthlm.inference.request import Answer, Request
from depthlm.models.cache_names import cache_of
from depthlm.models.processor import ThinProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from PIL import Image

    from depthlm.inference.prefix import PrefixReader, SharedPrefix
    from depthlm.models.loading import LoadedModel

BATCH_MEM = 512.0  # MiB
BATCH_PATCHES = 4096  # of the pictures of one batch, where their attention is one


@dataclass(frozen=True, slots=True, eq=False)
class _LastPicture:
    """The picture asked about last, as the model has read it: kept for as long as somebody else has the picture.

    grids: what `encode_images` says of it besides its pixels.
    """

    picture: weakref.ref[Image.Image]
    grids: dict[str, torch.Tensor]
    prefix: SharedPrefix


class Engine(Backend):
    """Asks one loaded model.

    batch: questions per forward pass. intervals: also report the 80 % interval, for a few more tokens. read:
    which number of the model's belief is the answer (card.READINGS), default what its card says; all but greedy
    cost the same few tokens, and fall back to the text where the belief is unknown.
    reference: name of the reference, default the model's preferred one. shares: whether questions about one picture
    share its reading; the answers are the same. forced: where a task's answers all begin alike, that beginning is given
    and decoding ends with the number; the number is the same wherever the model would have begun so by itself.
    decimals: digits after the point that are decoded when forced, default as many as the prompt writes. batch_mem: MiB
    that the questions about one picture, asked together, may take beside the picture. markers: most markers drawn on
    one view, each with its own question, default as many as the card says it was trained with.
    Raises InputError for a reference its prompt has no words for.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        reference: str | None = None,
        batch: int = 8,
        intervals: bool = True,
        read: str | None = None,
        shares: bool = True,
        forced: bool = True,
        decimals: int | None = None,
        batch_mem: float = BATCH_MEM,
        markers: int | None = None,
    ) -> None:
        if batch < 1:
            raise InputError(f"batch is {batch}; expected at least 1")
        if decimals is not None and decimals < 0:
            raise InputError(f"--decimals is {decimals}; expected 0 or more")
        if not batch_mem > 0:
            raise InputError(f"--batch-mem is {batch_mem}; expected a positive number of MiB")
        self.shares = shares and isinstance(getattr(loaded, "processor", None), ThinProcessor)
        most = loaded.card.markers_per_image if markers is None else markers
        super().__init__(
            loaded.card, loaded.view_config, name=str(loaded.path), reference=reference, read=read, forced=forced,
            markers=most if self.shares else 1,
        )  # fmt: skip
        self.loaded, self.batch, self.intervals = loaded, batch, intervals
        self.decimals, self.batch_mem = decimals, batch_mem
        self._last: _LastPicture | None = None

    def identity(self) -> dict[str, Any]:
        """The weights, and what decoding depends on."""
        return {
            "name": "hf",
            "weights": _weights_digest(Path(self.loaded.path)),
            "intervals": self.intervals,
            "forced": self.forced,
            "decimals": self.decimals,
        }

    def ask(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """Answers in the order of the requests. progress: called with the number of answers that have come in.

        Requests that show the same picture share its reading (inference/prefix.py), also from one call to the next for
        as long as somebody holds that picture; the others go through the model whole, `batch` at a time.
        """
        together: dict[Any, list[int]] = {}
        for number, request in enumerate(requests):
            together.setdefault(self._alike(request), []).append(number)
        answers: dict[int, Answer] = {}
        for (picture, _), numbers in together.items():
            # A single question beside others about other pictures is faster in a batch with them.
            shares = picture is not None and (
                len(numbers) > 1 or len(requests) == 1 or self._knows(requests[numbers[0]])
            )
            size = len(numbers) if shares else self._batch_size(requests[numbers[0]])
            for start in range(0, len(numbers), size):
                part = numbers[start : start + size]
                asked = [requests[number] for number in part]
                shared = self._ask_shared(asked) if shares else None
                answers |= zip(part, self._ask_batch(asked) if shared is None else shared, strict=True)
                if progress is not None:
                    progress(len(part))
        return [answers[number] for number in range(len(requests))]

    def _batch_size(self, request: Request) -> int:
        """Questions of their own picture each that go through the model together.

        Pixtral's vision tower attends over all pictures of a batch at once, masked: its cost grows with the square of
        their patches together, so that large pictures go alone.
        """
        processor = getattr(self.loaded, "processor", None)
        if not isinstance(processor, ThinProcessor) or processor.family.images != "planes":
            return self.batch
        patches = sum(image.width * image.height for image in request.images()) // processor.patch**2
        return max(1, min(self.batch, BATCH_PATCHES // max(1, patches)))

    def _alike(self, request: Request) -> tuple[Any, str | None]:
        """What requests that are asked together have in common: the picture (None: it shows one of its own), and what
        their answers begin with.
        """
        alone = request.second is not None or not self.shares
        if alone or not (request.reference.kind == "text" or request.shares_markers):
            return None, request.lead
        return (id(request.view.image), request.uv.tobytes() if request.shares_markers else None), request.lead

    @cached_property
    def vocabulary(self) -> NumberVocabulary:
        """The tokens that write numbers."""
        return NumberVocabulary(self.loaded.processor.tokenizer)

    def _complete(self, number: str) -> bool:
        """Whether a number has all the digits that are decoded."""
        _, point, digits = number.partition(".")
        enough = bool(point) and self.decimals is not None and len(digits) >= self.decimals
        return enough or self.prompt.complete(number)

    def _ask_shared(self, requests: Sequence[Request]) -> list[Answer] | None:
        """Requests that show one picture; None when their texts differ before the picture is complete."""
        from depthlm.inference.prefix import PrefixReader

        model, processor, lead = self.loaded.model, self.loaded.processor, requests[0].lead
        assert isinstance(processor, ThinProcessor), "others share nothing"
        reader = PrefixReader(model, mrope=processor.family.mrope, batch_mem=self.batch_mem)
        shared = self._share(reader, processor, requests)
        if shared is None:
            return None
        prefix, own = shared
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [processor.end_id if ends is None else ends]
        answers: list[Answer] = []
        size = reader.chunk(prefix, max(map(len, own)))
        for start in range(0, len(own), size):
            part = own[start : start + size]
            decoded = reader.decode(
                prefix, part, pad=processor.pad_id, ends=ends,
                most=self.loaded.card.max_new_tokens if lead is None else MOST_TOKENS,
                number=None if lead is None else (self.vocabulary, self._complete),
            )  # fmt: skip
            answers += self._read(
                requests[start : start + size], decoded.sequences, decoded.mask, decoded.cache,
                lambda tokens, mask, cache, repeats: reader.step(prefix, tokens, mask, cache),
            )  # fmt: skip
        return answers

    def _share(
        self, reader: PrefixReader, processor: ThinProcessor, requests: Sequence[Request]
    ) -> tuple[SharedPrefix, list[list[int]]] | None:
        """What requests about one picture begin with, read by the model, and the tokens that each goes on with."""
        from depthlm.inference.prefix import common_length

        request = requests[0]
        if not self._knows(request):
            self._last = None  # before another takes memory
        last = self._last
        images = processor.encode_images(request.images()) if last is None else last.grids
        given = [] if request.lead is None else processor.lead_tokens(request.lead, self.prompt.system)
        rows = [processor.encode_ids(images, other.question, self.prompt.system) + given for other in requests]
        length = common_length(rows)
        if processor.image_token_id in rows[0][length:]:
            return None
        if last is None:
            prefix = reader.read(rows[0][:length], images)
            if not request.shares_markers:
                grids = {name: value for name, value in images.items() if name != "pixel_values"}
                self._last = _LastPicture(weakref.ref(request.view.image, self._forget), grids, prefix)
        else:
            prefix = last.prefix.beginning(rows[0][:length])
        return prefix, [row[prefix.length :] for row in rows]

    def _knows(self, request: Request) -> bool:
        """Whether it shows the picture asked about last."""
        last = self._last
        return last is not None and last.picture() is request.view.image and not request.shares_markers

    def _forget(self, picture: weakref.ref[Image.Image]) -> None:
        """Nobody has the picture any more, so that nobody will ask about it."""
        if self._last is not None and self._last.picture is picture:
            self._last = None

    def _ask_batch(self, requests: Sequence[Request]) -> list[Answer]:
        """One padded batch through `generate`; padding is on the left and masked, so the others do not matter."""
        import torch

        model, processor = self.loaded.model, self.loaded.processor
        lead = requests[0].lead
        encoded = [
            processor.encode(r.images(), r.question, None, self.prompt.system, prefill=lead or "") for r in requests
        ]
        inputs = processor.collate(encoded, pad="left")
        inputs.pop("labels", None)
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        limits: dict[str, Any] = {"max_new_tokens": self.loaded.card.max_new_tokens}
        if lead is not None:
            ends = NumberEnds(self.vocabulary, inputs["input_ids"].shape[1], self._complete)
            limits = {"max_new_tokens": MOST_TOKENS, "stopping_criteria": [ends]}
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                **limits,
                do_sample=False,
                num_beams=1,
                return_dict_in_generate=True,
            )
        return self._read(requests, output.sequences, inputs["attention_mask"], cache_of(output), whole_step(model))

    def _read(
        self, requests: Sequence[Request], sequences: torch.Tensor, prompt_mask: torch.Tensor, cache: Any, step: Any
    ) -> list[Answer]:
        """Texts and beliefs. sequences: [B, P + T], prompt_mask: [B, P], cache of the first P + T - 1 tokens."""
        import torch

        tokenizer = self.loaded.processor.tokenizer
        ids: list[list[int]] = sequences[:, prompt_mask.shape[1] :].tolist()
        lead = requests[0].lead
        if lead is not None:  # what follows the number is no part of the answer
            ids = [row[: self.vocabulary.number(row, self._complete)[0] or len(row)] for row in ids]
        texts = [(lead or "") + tokenizer.decode(row, skip_special_tokens=True) for row in ids]
        readings = [r.kind.locate(text) for r, text in zip(requests, texts, strict=True)]
        leaves: list[list[Any]] = [[] for _ in readings]
        if self.intervals or self.read != "greedy":
            starts = [
                None if reading is None else find_number(tokenizer, row, reading.literal, self.vocabulary)
                for row, reading in zip(ids, readings, strict=True)
            ]
            with torch.inference_mode():
                leaves = NumberBeam(step, self.vocabulary).leaves(sequences, prompt_mask, cache, starts)
        return [self.answer(*row) for row in zip(requests, texts, readings, leaves, strict=True)]


def _weights_digest(path: Path) -> str:
    """Which weights these are: names, sizes and times of the files, as reading many gigabytes would take minutes."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]
