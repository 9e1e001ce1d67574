"""What every family promises on a tiny checkpoint of its architecture: tokens, labels, identity, batches, positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from depthlm.errors import InputError
from depthlm.models.families import FAMILIES, family_of, get_family, patch_grid
from depthlm.models.loading import LoadedModel, load_model
from depthlm.models.processor import IGNORE, ThinProcessor
from tiny import TINY_FAMILIES, build_tiny

THIN = ("qwen2_5_vl", "qwen3_vl", "pixtral")
QWEN = ("qwen2_5_vl", "qwen3_vl")
GRIDS = {"qwen2_5_vl": 28, "qwen3_vl": 32, "pixtral": 16}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    folder = tmp_path_factory.mktemp("tiny")
    return {family: load_model(build_tiny(family, folder / family)) for family in TINY_FAMILIES}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng([seed, width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def view(family: str, columns: int, rows: int, seed: int = 0) -> Image.Image:
    grid = GRIDS.get(family, 28)
    return picture(columns * grid, rows * grid, seed)


def model_inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


# --- tokens and labels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", THIN)
def test_grid(loaded: dict[str, LoadedModel], family: str) -> None:
    model = loaded[family]
    assert model.processor.grid == patch_grid(FAMILIES[family], model.model.config) == GRIDS[family]
    assert model.card.grid == model.view_config.grid == GRIDS[family]
    assert family_of(model.model.config).name == model.card.family == family


def test_llava_with_clip_is_left_to_its_own_processor(loaded: dict[str, LoadedModel]) -> None:
    assert family_of(loaded["llava"].model.config) is FAMILIES["auto"]
    assert loaded["llava"].view_config.grid == 1


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (3, 2), (1, 4)])
@pytest.mark.parametrize("family", QWEN)
def test_qwen_placeholders(loaded: dict[str, LoadedModel], family: str, columns: int, rows: int) -> None:
    processor = loaded[family].processor
    encoded = processor.encode([view(family, columns, rows)], "How far?")
    text = "<|vision_start|>" + "<|image_pad|>" * (columns * rows) + "<|vision_end|>How far?<|im_end|>"
    assert text in processor.tokenizer.decode(encoded.input_ids)
    assert encoded.image_grid_thw is not None
    assert encoded.image_grid_thw.tolist() == [[1, 2 * rows, 2 * columns]]
    assert int(encoded.mm_token_type_ids.sum()) == columns * rows


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (3, 2), (1, 4)])
def test_pixtral_placeholders(loaded: dict[str, LoadedModel], columns: int, rows: int) -> None:
    processor = loaded["pixtral"].processor
    encoded = processor.encode([view("pixtral", columns, rows)], "How far?")
    lines = ["[IMG]" * columns] * rows
    assert (
        processor.tokenizer.decode(encoded.input_ids) == f"<s>[INST]{'[IMG_BREAK]'.join(lines)}[IMG_END]How far?[/INST]"
    )
    assert encoded.image_sizes is not None
    assert encoded.image_sizes.tolist() == [[16 * rows, 16 * columns]]


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_loss_is_on_the_answer_and_the_end_token_only(loaded: dict[str, LoadedModel], family: str) -> None:
    processor = loaded[family].processor
    encoded = processor.encode([view(family, 2, 2)], "How far?", "<answer>2.50</answer>", "Be brief.")
    answer = encoded.labels[encoded.labels != IGNORE]
    end = processor.family.turn_end or "</s>"
    assert processor.tokenizer.decode(answer) == "<answer>2.50</answer>" + end
    assert encoded.labels[-1] == processor.end_id  # so that stopping is learnt
    kept = encoded.labels != IGNORE
    assert (encoded.labels[kept] == encoded.input_ids[kept]).all()
    asked = processor.encode([view(family, 2, 2)], "How far?", None, "Be brief.")
    assert (asked.labels == IGNORE).all()
    assert asked.input_ids.tolist() == encoded.input_ids[: len(asked)].tolist()
    assert "Be brief." in processor.tokenizer.decode(asked.input_ids)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_given_start_of_the_answer_tokenises_as_in_the_whole(loaded: dict[str, LoadedModel], family: str) -> None:
    """Forced decoding of a constant prefix must meet the tokens that training saw."""
    processor = loaded[family].processor
    for prefix, rest in (("<think> The point is around ", "2.50 meters"), ("<answer>", "12.30</answer>")):
        assert processor.tokenize(prefix) + processor.tokenize(rest) == processor.tokenize(prefix + rest)
    forced = processor.encode([view(family, 1, 1)], "How far?", prefill="<answer>")
    trained = processor.encode([view(family, 1, 1)], "How far?", "<answer>2.50</answer>")
    assert trained.input_ids[: len(forced)].tolist() == forced.input_ids.tolist()
    assert (forced.labels == IGNORE).all()


@pytest.mark.parametrize("family", THIN)
def test_two_pictures_in_one_question(loaded: dict[str, LoadedModel], family: str) -> None:
    processor = loaded[family].processor
    assert isinstance(processor, ThinProcessor)
    encoded = processor.encode([view(family, 2, 1), view(family, 1, 3)], "How far did it move?")
    assert int(encoded.mm_token_type_ids.sum()) == 2 + 3
    with torch.inference_mode():
        assert loaded[family].model(**model_inputs(processor.collate([encoded]))).logits.isfinite().all()


def test_qwen2_5_says_its_default_system_sentence(loaded: dict[str, LoadedModel]) -> None:
    assert loaded["qwen2_5_vl"].processor.render(1, "Q").startswith("<|im_start|>system\nYou are a helpful assistant.")
    assert loaded["qwen3_vl"].processor.render(1, "Q").startswith("<|im_start|>user\n")


def test_an_old_pixtral_template_still_gets_the_question(loaded: dict[str, LoadedModel]) -> None:
    """It reads a text part's "content" and knows no "text": questions would silently be empty."""
    import copy

    old = copy.deepcopy(loaded["pixtral"].processor.tokenizer)
    old.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.content }}{% else %}[IMG]{% endif %}{% endfor %}[/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    known = loaded["pixtral"].processor
    processor = ThinProcessor(old, known.image_processor, FAMILIES["pixtral"])
    assert processor.render(1, "How far?") == known.render(1, "How far?") == "<s>[INST][IMG]How far?[/INST]"


def test_a_template_that_drops_the_picture_is_refused(loaded: dict[str, LoadedModel]) -> None:
    import copy

    blind = copy.deepcopy(loaded["qwen3_vl"].processor.tokenizer)
    blind.chat_template = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endif %}|{% endfor %}"
    )
    processor = ThinProcessor(blind, loaded["qwen3_vl"].processor.image_processor, FAMILIES["qwen3_vl"])
    with pytest.raises(ValueError, match="drops the question or one <|image_pad|>"):
        processor.encode([view("qwen3_vl", 1, 1)], "How far?")


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (2, 3), (7, 5), (44, 37)])
@pytest.mark.parametrize("family", THIN)
def test_fast_path_is_the_pil_processor_and_the_pil_processor_the_identity(
    loaded: dict[str, LoadedModel], family: str, columns: int, rows: int
) -> None:
    """(44, 37) x 28 is 1232x1036: over the 1,003,520 px at which Qwen's default processor shrinks silently."""
    processor = loaded[family].processor
    image = view(family, columns, rows)
    fast = processor.encode_images([image])  # type: ignore[union-attr]
    slow = processor.image_processor(images=[image], return_tensors="np")
    still = processor.image_processor(images=[image], return_tensors="np", do_resize=False)
    for name, value in fast.items():
        np.testing.assert_array_equal(np.asarray(slow[name]), np.asarray(still[name]))  # it did not resample
        np.testing.assert_allclose(value.numpy(), np.asarray(slow[name]), atol=1e-6)


@pytest.mark.parametrize("family", THIN)
def test_a_picture_that_pil_keeps_in_pieces(
    loaded: dict[str, LoadedModel], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, grid = loaded[family].processor, GRIDS[family]
    images = [picture(13 * grid, 11 * grid), picture(2 * grid, 3 * grid)]  # more patches than are handled at once
    one = processor.encode_images(images)
    monkeypatch.setattr("depthlm.models.processor.view_levels", np.asarray)  # three channels
    for name, value in processor.encode_images(images).items():
        np.testing.assert_array_equal(value.numpy(), one[name].numpy())


@pytest.mark.parametrize("family", THIN)
def test_a_view_off_the_grid_or_too_large_is_refused(loaded: dict[str, LoadedModel], family: str) -> None:
    processor = loaded[family].processor
    grid = GRIDS[family]
    assert processor.fits(grid, grid)
    for width, height in ((grid + 1, grid), (grid, grid - 1), (1, 1)):
        assert not processor.fits(width, height)
        with pytest.raises(ValueError, match=f"multiples of {grid}"):
            processor.encode([picture(width, height)], "How far?")
    assert not processor.fits(0, 0)
    with pytest.raises(InputError, match="beyond the model's size limits"):
        processor.encode([picture(grid * 1000, grid)], "How far?")


def test_released_geometry_leaves_the_resize_to_the_checkpoint(loaded: dict[str, LoadedModel]) -> None:
    known = loaded["pixtral"].processor
    processor = ThinProcessor(known.tokenizer, known.image_processor, FAMILIES["pixtral"], resize=True)
    image = picture(85, 64)  # the 12B's processor rounds up to multiples of 16 (paper.md 6.1)
    encoded = processor.encode([image], "How far?")
    assert encoded.image_sizes is not None
    assert encoded.image_sizes.tolist() == [[64, 96]]
    expected = known.image_processor(images=[image.resize((96, 64), Image.Resampling.BICUBIC)], return_tensors="np")
    np.testing.assert_allclose(encoded.pixel_values.numpy(), expected["pixel_values"], atol=1e-6)


@pytest.mark.parametrize("family", THIN)
def test_parity_with_the_full_processor(loaded: dict[str, LoadedModel], family: str) -> None:
    pytest.importorskip("torchvision", reason="the full processors need torchvision")
    from transformers import AutoProcessor

    model = loaded[family]
    full = AutoProcessor.from_pretrained(model.path, local_files_only=True)
    image = view(family, 5, 3)
    text = model.processor.render(1, "How far?")
    official = full(text=[text], images=[image], return_tensors="pt", add_special_tokens=False)
    ours = model.processor.collate([model.processor.encode([image], "How far?")])
    assert ours["input_ids"].tolist() == official["input_ids"].tolist()
    for name in ("pixel_values", "image_grid_thw", "image_sizes", "mm_token_type_ids"):
        assert (name in ours) == (name in official), name
        if name in ours:
            torch.testing.assert_close(ours[name], official[name].to(ours[name].dtype), atol=1e-5, rtol=0)


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_batch_of_one_is_batch_of_many(loaded: dict[str, LoadedModel], family: str) -> None:
    """Different sizes and lengths, padded on either side: the same logits and the same answers."""
    model, processor = loaded[family].model, loaded[family].processor
    sizes = [(1, 1), (4, 3), (2, 5)]
    asked = [processor.encode([view(family, *s)], "How far?" + " now" * i) for i, s in enumerate(sizes)]
    with torch.inference_mode():
        left = model(**model_inputs(processor.collate(asked, pad="left"))).logits
        right = model(**model_inputs(processor.collate(asked, pad="right"))).logits
        batch = model_inputs(processor.collate(asked, pad="left"))
        many = model.generate(**batch, max_new_tokens=6)[:, batch["input_ids"].shape[1] :]
        for i, one in enumerate(asked):
            alone = model_inputs(processor.collate([one]))
            logits = model(**alone).logits[0]
            torch.testing.assert_close(left[i, -len(one) :], logits, atol=1e-5, rtol=0)
            torch.testing.assert_close(right[i, : len(one)], logits, atol=1e-5, rtol=0)
            answer = model.generate(**alone, max_new_tokens=6)[0, len(one) :]
            assert many[i, : len(answer)].tolist() == answer.tolist()
            assert (many[i, len(answer) :] == processor.pad_id).all()


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_the_picture_matters(loaded: dict[str, LoadedModel], family: str) -> None:
    model, processor = loaded[family].model, loaded[family].processor
    with torch.inference_mode():
        a, b = (
            model(**model_inputs(processor.collate([processor.encode([view(family, 2, 2, seed)], "?")]))).logits[0, -1]
            for seed in (0, 1)
        )
    assert (a - b).abs().max() > 1e-6


def positions_used(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the language model is really given as position_ids."""
    seen: list[torch.Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    with torch.inference_mode():
        model(**inputs)
    hook.remove()
    return seen[0]


def expected_positions(ids: list[int], image_token: int, columns: int) -> np.ndarray:
    """[3, L] time, row, column: text counts up; an image's tokens share a time and spread over its grid; what follows
    goes on after the larger side of the grid. Written from the published description, token by token.
    """
    out = []
    position, inside = 0, 0
    for n, token in enumerate(ids):
        if token == image_token:
            out.append((position, position + inside // columns, position + inside % columns))
            inside += 1
            if n + 1 == len(ids) or ids[n + 1] != image_token:
                position += max(inside // columns, columns)
                inside = 0
        else:
            out.append((position, position, position))
            position += 1
    return np.array(out).T


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (4, 3), (2, 5)])
@pytest.mark.parametrize("family", QWEN)
def test_mrope_positions(loaded: dict[str, LoadedModel], family: str, columns: int, rows: int) -> None:
    model, processor = loaded[family].model, loaded[family].processor
    encoded = processor.encode([view(family, columns, rows)], "How far?", "2.50")
    padding = processor.encode([view(family, 6, 6)], "How far is it?", "2.50")  # a longer one: both rows are padded
    for pad in ("left", "right"):
        batch = processor.collate([encoded, padding], pad=pad)  # type: ignore[arg-type]
        used = positions_used(model, model_inputs(batch))[-3:, 0]  # some versions put the plain positions first
        real = batch["attention_mask"][0].bool()
        expected = expected_positions(encoded.input_ids.tolist(), processor.image_token_id, columns)
        np.testing.assert_array_equal(used[:, real].numpy(), expected)
    if (columns, rows) != (1, 1):
        assert (expected != np.arange(expected.shape[1])).any()  # 1-D positions would fail this test


def test_qwen2_5_without_token_types_would_silently_be_another_model(loaded: dict[str, LoadedModel]) -> None:
    model, processor = loaded["qwen2_5_vl"].model, loaded["qwen2_5_vl"].processor
    inputs = model_inputs(processor.collate([processor.encode([view("qwen2_5_vl", 4, 3)], "How far?")]))
    with torch.inference_mode():
        right = model(**inputs).logits
        inputs.pop("mm_token_type_ids")
        wrong = model(**inputs).logits
    assert (right - wrong).abs().max() > 1e-4


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_training_step_reaches_vision_and_text(loaded: dict[str, LoadedModel], family: str) -> None:
    model, processor = loaded[family].model, loaded[family].processor
    batch = processor.collate([processor.encode([view(family, 2, 2)], "How far?", "2.50") for _ in range(2)])
    loss = model(**batch).loss
    loss.backward()
    grads = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    model.zero_grad(set_to_none=True)
    assert loss.isfinite()
    assert any("vis" in name for name in grads)
    assert any("language_model" in name for name in grads)


def test_unknown_family() -> None:
    with pytest.raises(InputError, match="unknown model family 'qwen9'; choose one of qwen2_5_vl"):
        get_family("qwen9")


def test_tiny_is_reproducible(tmp_path: Path) -> None:
    first, second = (build_tiny("qwen3_vl", tmp_path / str(i), seed=3) for i in range(2))
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
