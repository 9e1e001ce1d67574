"""Every prompt word for word, and whole conversations as the released checkpoints get them.

After a deliberate change: `PYTHONPATH=src:tests python tests/test_prompts.py` writes the golden file anew.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from depthlm.camera import Camera
from depthlm.errors import InputError
from depthlm.models.card import RELEASED
from depthlm.models.families import FAMILIES
from depthlm.models.loading import load_processor
from depthlm.prompts import PROMPTS, get_prompt, significant
from depthlm.reference import get_reference
from depthlm.view import ViewConfig, make_view
from tiny import build_tiny

GOLDEN_FILE = Path(__file__).parent / "golden" / "prompts.json"
GOLDEN = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
RELEASED_FAMILIES = [("pixtral", "facebook/DepthLM"), ("qwen3_vl", "facebook/VLM3-depth")]
CAMERA = Camera(500.0, 510.5, 319.5, 239.5, 640, 480)


def snapshot(name: str) -> dict[str, Any]:
    """What a prompt says about one point, by every reference it has words for."""
    prompt = PROMPTS[name]
    scale = prompt.coordinate_range or 2000
    references = [get_reference(r, scale) for r in ("arrow", "square", "cross", "text", "text-pixels")]
    return {
        "system": prompt.system,
        "questions": {r.name: prompt.question(r, (100.2, 200.7), CAMERA) for r in references if prompt.supports(r)},
        "answer": prompt.format_answer(3.14159),
        "answer_prefix": prompt.answer_prefix,
    }


def conversation(family: str, hub_id: str, folder: Path) -> dict[str, Any]:
    """One question as the released checkpoint gets it, on a tiny model of its family. The picture is one grey, so that
    the golden hash holds the marker and the sizes and not a version of PIL's bicubic.
    """
    card = RELEASED[hub_id]
    folder = build_tiny(family, folder)
    (folder / "depthlm.json").unlink()
    processor = load_processor(folder, FAMILIES[family], card)
    # 750 / 500 makes 40x30 into 60x45, 1000 / 657 too (60.9 is cut off); official geometry does not look at fy.
    camera = Camera(500.0 if card.focal == 750 else 657.0, 520.0, 19.5, 14.5, 40, 30)
    image = Image.new("RGB", (40, 30), (128, 128, 128))
    config = ViewConfig(focal=card.focal, grid=processor.grid, geometry=card.geometry)
    view = make_view(image, camera, [(20.9, 15.5)], config=config)
    reference = get_reference(card.references[0], card.coordinate_range, card.rounding, card.half_pixel)
    prompt = PROMPTS[card.prompt]
    question = prompt.question(reference, view.uv[0], view.camera)
    marked = reference.draw(view.image, view.uv[0])
    encoded = processor.encode([marked], question, prompt.format_answer(2.5), prompt.system)
    red = np.argwhere((np.asarray(marked) == (255, 0, 0)).all(axis=2))
    sizes = encoded.image_grid_thw if encoded.image_sizes is None else encoded.image_sizes
    assert sizes is not None
    return {
        "view": list(view.image.size),
        "uv": view.uv[0].tolist(),
        "red_xy": sorted([int(x), int(y)] for y, x in red),
        "marked_sha256": hashlib.sha256(marked.tobytes()).hexdigest(),
        "processed": sizes[0].tolist(),
        "text": processor.render(1, question, prompt.system),
        "answer": processor.tokenizer.decode(encoded.labels[encoded.labels >= 0]),
        "ids": [[int(token), len(list(run))] for token, run in groupby(encoded.input_ids.tolist())],
    }


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_prompt_is_word_for_word_what_it_was(name: str) -> None:
    assert snapshot(name) == GOLDEN["prompts"][name]


def test_released_strings() -> None:
    """Typed out once more from paper.md 1.1 and vlm3.md 1.4, not from prompts.py."""
    tail = (
        " Output the thinking process in <think> </think> and final answer (the meter number only, without the unit) "
        "in <answer> </answer> tags."
    )
    arrow, text = get_reference("arrow"), get_reference("text")
    assert PROMPTS["depthlm-official"].question(arrow, (50, 50), CAMERA) == (
        "Given this image, how far is the point pointed by the red arrow from the camera?" + tail
    )
    assert PROMPTS["vlm3-depth"].question(text, (320, 240), CAMERA) == (
        "Given this image, how far is the point at coordinates (1000, 1000) from the camera? The coordinates are in "
        "normalised [0, 2000] format relative to image width and height." + tail
    )
    for name in ("depthlm-official", "vlm3-depth"):
        assert PROMPTS[name].format_answer(12.345) == (
            "<think> The point is around 12.35 meters away from the camera. </think>\n\n<answer> 12.35 </answer>"
        )
        assert PROMPTS[name].answer_prefix == "<think> The point is around "


def test_our_questions_share_everything_up_to_the_numbers() -> None:
    text = get_reference("text")
    first, second = (PROMPTS["depthlm"].question(text, uv, CAMERA) for uv in ((10, 20), (600, 400)))
    assert first.rpartition("(")[0] == second.rpartition("(")[0]
    assert first.endswith("(31, 83)")


@pytest.mark.parametrize(
    ("prompt", "reference"),
    [
        ("depthlm-official", "square"),
        ("depthlm-official", "text"),
        ("vlm3-depth", "text-pixels"),
        ("text-pixels", "text"),
    ],
)
def test_a_prompt_without_words_for_a_reference_says_so(prompt: str, reference: str) -> None:
    assert not PROMPTS[prompt].supports(get_reference(reference))
    with pytest.raises(InputError, match=f"prompt '{prompt}' has no question for reference '{reference}'"):
        PROMPTS[prompt].question(get_reference(reference), (50, 50), CAMERA)


def test_unknown_prompt() -> None:
    with pytest.raises(InputError, match="unknown prompt 'gpt'; choose one of depthlm-official"):
        get_prompt("gpt")


@pytest.mark.parametrize(
    ("value", "text"), [(0.471, "0.47"), (2.34, "2.3"), (12.3, "12"), (0.996, "1.0"), (9.96, "10"), (99.6, "100")]
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value, 2) == text


@pytest.mark.parametrize(("family", "hub_id"), RELEASED_FAMILIES)
def test_released_conversation(family: str, hub_id: str, tmp_path: Path) -> None:
    made = conversation(family, hub_id, tmp_path / "model")
    golden = GOLDEN["conversations"][hub_id]
    for key in golden:  # key by key: a failure names what moved
        assert made[key] == golden[key], key
    assert made.keys() == golden.keys()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        golden = {
            "prompts": {name: snapshot(name) for name in sorted(PROMPTS)},
            "conversations": {
                hub_id: conversation(family, hub_id, Path(work) / family) for family, hub_id in RELEASED_FAMILIES
            },
        }
    text = json.dumps(golden, indent=1)
    flat = re.sub(r"\[\s+(-?[\d.]+(?:,\s+-?[\d.]+)*)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    GOLDEN_FILE.write_text(flat + "\n", encoding="utf-8")
