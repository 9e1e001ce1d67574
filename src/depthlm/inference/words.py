"""Depth read off the image tokens: one pass over a picture, no question, no head.

A model trained with words at its image tokens (`image_words` in a recipe's stage) says at each of them the number word
for its own cell. The words' probabilities there are a belief as good as an answer's; its median is the cell's depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from depthlm.errors import InputError
from depthlm.models.processor import ThinProcessor
from depthlm.prompts import PROMPTS
from depthlm.training.dataset import WORDS_PER_DECADE
from depthlm.training.rows import word_token

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from depthlm.models.loading import LoadedModel
    from depthlm.view import View

_NEAREST, _FARTHEST = 0.1, 150.0  # metres that the words span


def read_words(loaded: LoadedModel, view: View) -> NDArray[np.float64]:
    """[rows, columns] metres that the image tokens of the view say, each for its own cell of the patch grid.

    Raises InputError for a model whose tokenizer has no words for numbers, or whose family has no such tokens.
    """
    processor = loaded.processor
    if not isinstance(processor, ThinProcessor):
        raise InputError(f"{loaded.path}: image tokens can be read of Qwen and Pixtral models only")
    prompt = PROMPTS[loaded.card.prompt]
    first, last = (round(np.log10(end) * WORDS_PER_DECADE) for end in (_NEAREST, _FARTHEST))
    metres = 10 ** (np.arange(first, last + 1) / WORDS_PER_DECADE)
    tokens = [word_token(processor, prompt.format_answer(value)) for value in metres.tolist()]
    encoded = processor.encode([view.image], "", None, prompt.system)
    inputs = processor.collate([encoded])
    inputs.pop("labels")
    model = loaded.model
    inputs = {k: v.to(model.device, model.dtype if v.is_floating_point() else None) for k, v in inputs.items()}
    with torch.inference_mode():
        hidden = model.model(**inputs, use_cache=False).last_hidden_state[0]
        scores = model.lm_head(hidden[inputs["input_ids"][0] == processor.image_token_id])[:, tokens].float()
    below = scores.softmax(dim=-1).cumsum(dim=-1).cpu().numpy()
    grid = processor.grid
    return metres[np.argmax(below >= 0.5, axis=1)].reshape(view.image.height // grid, view.image.width // grid)


def sample_cells(cells: NDArray[np.float64], uv: ArrayLike, grid: int) -> NDArray[np.float64]:
    """[rows, columns] values of cells -> [N] values at pixels uv [N, 2] of the view, linear in the logarithm between
    the centres of cells and constant beyond the outermost.
    """
    place = (np.asarray(uv, dtype=np.float64).reshape(-1, 2) + 0.5) / grid - 0.5
    rows, columns = cells.shape
    x, y = place[:, 0].clip(0, columns - 1), place[:, 1].clip(0, rows - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, columns - 1), np.minimum(top + 1, rows - 1)
    logs, a, b = np.log(cells), x - left, y - top
    upper = logs[top, left] * (1 - a) + logs[top, right] * a
    lower = logs[bottom, left] * (1 - a) + logs[bottom, right] * a
    value: NDArray[np.float64] = np.exp(upper * (1 - b) + lower * b)
    return value
