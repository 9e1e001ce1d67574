"""Loss `reward` (GRPO): what a token says, what is drawn and where it pushes, in training, and where it is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cli_runner import run
from depthlm.errors import InputError
from depthlm.models.chat import IGNORE
from depthlm.models.loading import load_model
from depthlm.models.processor import ThinProcessor
from depthlm.prompts import get_prompt
from depthlm.training.reward import reward_loss, token_metres

if TYPE_CHECKING:
    from pathlib import Path

METRES = torch.tensor([0.0, 1.0, 2.0, 4.0])  # a tokenizer of one word and three numbers
SCORED = len(METRES) + 2  # a model's head is wider


class Policy(torch.nn.Module):
    """Three positions whose scores are parameters: the question's last token, the number, the end."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(torch.zeros(1, 3, SCORED))
        self.lm_head = torch.nn.Identity()

    def model(self, **inputs: Any) -> Any:
        """What a network's body gives."""
        return SimpleNamespace(last_hidden_state=self.scores)


def batch_of(answer: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.zeros(1, 3, dtype=torch.int64), "labels": torch.tensor([[IGNORE, answer, 0]])}


@pytest.mark.parametrize("answer", [1, 2, 3])
def test_the_best_rewarded_answer_wins(answer: int) -> None:
    """Answers are only drawn and rewarded, and the true one becomes the likeliest; nothing else moves."""
    torch.manual_seed(answer)
    policy = Policy()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        loss, parts = reward_loss(policy, batch_of(answer), metres=METRES, group=8)
        loss.backward()
        optimizer.step()
    assert policy.scores[0, 0].softmax(dim=0)[answer] > 0.9
    assert parts["labels"] == 1
    assert not policy.scores[0, 1:].any()


def test_the_push_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn 1 m, 4 m and no token at all (0 m) where 2 m are true: rewards -1, -2, -2, advantages sqrt 2 and twice
    -1/sqrt 2.
    """
    monkeypatch.setattr(torch, "multinomial", lambda *_, **__: torch.tensor([[1, 3, SCORED - 1]]))
    policy = Policy()
    loss, _ = reward_loss(policy, batch_of(2), metres=METRES, group=3)
    loss.backward()
    gradient = policy.scores.grad
    assert gradient is not None
    # Of log-softmax: what a token's advantage is, less what all share; advantages add up to 0.
    expected = -torch.tensor([0.0, 2**0.5, 0.0, -(0.5**0.5), 0.0, -(0.5**0.5)]) / 3
    torch.testing.assert_close(gradient[0, 0], expected, atol=1e-5, rtol=0)


def test_micro_batches_share_a_step() -> None:
    torch.manual_seed(0)
    whole, _ = reward_loss(Policy(), batch_of(2), metres=METRES, group=8)
    torch.manual_seed(0)
    half, _ = reward_loss(Policy(), batch_of(2), metres=METRES, group=8, items=4)
    torch.testing.assert_close(half, whole / 2)


def test_what_tokens_say() -> None:
    loaded = load_model("nano")
    assert isinstance(loaded.processor, ThinProcessor)
    metres = token_metres(loaded.processor, get_prompt("nano"))
    for text, value in (("2.3", 2.3), ("0.47", 0.47), ("120", 120.0)):
        (token,) = loaded.processor.tokenize(loaded.processor.render_answer(text))
        assert metres[token] == pytest.approx(value)
    assert metres[loaded.processor.end_id] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"group": 1}, "stages[0]: group is 1"),
        ({"tasks": {"distance": 1, "nearer": 1}}, "take nearer out of tasks"),
        ({"image_words": 1.0}, "set image_words to 0"),
        ({"tokens_per_batch": 1000}, "leave tokens_per_batch out"),
    ],
)
def test_recipes_that_cannot_be(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"stages.0.loss": "reward"} | {f"stages.0.{key}": value for key, value in changes.items()}
    overrides = [f"{key}={value}" for key, value in changes.items()]
    status, _, stderr = run(capsys, "train", "recipes/study/arm.yaml", *overrides, "--out", tmp_path / "out")
    assert status == 2
    assert words in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_needs_several_tokens(tiny_model: Path) -> None:
    loaded = load_model(tiny_model)
    assert isinstance(loaded.processor, ThinProcessor)
    with pytest.raises(InputError, match="loss: reward needs a tokenizer that holds an answer in one token"):
        token_metres(loaded.processor, get_prompt("depthlm"))
