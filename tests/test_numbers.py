"""Every way a model states a length, and every way it fails to."""

import pytest

from depthlm.tasks.numbers import parse_answer


@pytest.mark.parametrize(
    ("text", "metres"),
    [
        ("<answer> 1.23 </answer>", 1.23),
        ("<think> The point is around 4.56 meters away. </think>\n\n<answer> 4.56 </answer>", 4.56),
        ("<think> 9 meters? </think><answer>2</answer>", 2.0),
        ("<answer>1</answer> no, <answer>3.5 meters</answer>", 3.5),
        ("<answer> 1.2", 1.2),  # cut off by the token limit
        ("<ANSWER> 0.75 m </ANSWER>", 0.75),
        ("2.5 meters", 2.5),
        ("2.5 metres", 2.5),
        ("about 2.5m away", 2.5),
        ("1 meter", 1.0),
        ("150 cm", 1.5),
        ("250 millimetres", 0.25),
        ("1.2 km", 1200.0),
        ("10 feet", 3.048),
        ("At (320, 240) it is 3.1 meters, seen in 2 images", 3.1),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("The point is 7.25.", 7.25),
        ("12 then 13.5", 13.5),
        ("1,234.5 m", 1234.5),
        ("2,5 meters", 2.5),
        ("1.5e1", 15.0),
        ("1-2 meters", 2.0),
        ("1.5-2.5", 2.5),
        ("+3", 3.0),
        ("0.00", 0.0),
        ("10000", 10000.0),
    ],
)
def test_states_a_length(text: str, metres: float) -> None:
    assert parse_answer(text) == pytest.approx(metres)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "I cannot tell.",
        "nan",
        "inf meters",
        "-1.5",
        "\u22121.5 m",
        "<answer> -2 </answer>",
        "<answer> </answer>",
        "3 meters <answer> unknown </answer>",  # the tag is the answer
        "10001",
        "1e400",
        "99999999999999999999999",
        "in 3D",
        "<answer>",
    ],
)
def test_states_none(text: str) -> None:
    assert parse_answer(text) is None
