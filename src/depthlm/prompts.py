"""Every protocol string: what the released checkpoints were asked in, word for word, and our own beside them.

A prompt's question is looked up by the reference's name first ("arrow", "text-pixels"), then by its kind ("marker",
"text"). Fields: {marker} {x} {y} {range} {width} {height} {fx} {fy} {cx} {cy}; answers have {value}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from depthlm.errors import InputError
from depthlm.reference.marker import COLOURS as MARKER_COLOURS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from depthlm.camera import Camera
    from depthlm.objects import Box
    from depthlm.reference import Reference

# The released suffix and answer, shared by DepthLM (paper.md 1.1) and VLM3 (vlm3.md 1.4). Protocol: do not edit.
_RELEASED_FORMAT = (
    " Output the thinking process in <think> </think> and final answer (the meter number only, without the unit)"
    " in <answer> </answer> tags."
)
_RELEASED_ANSWER = (
    "<think> The point is around {value} meters away from the camera. </think>\n\n<answer> {value} </answer>"
)


_DECIMALS = 2  # of numbers in metres and the like
_SIGNIFICANT = 2  # digits, where numbers are even in ratio


def significant(value: float, digits: int) -> str:
    """A positive number with that many significant digits, never in exponent form: 0.471 -> "0.47", 12.3 -> "12"."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # after rounding: 0.996 counts as 1.0
    return f"{round(value, digits - 1 - exponent):.{max(0, digits - 1 - exponent)}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One way to ask for a distance and to answer it.

    system: text of the system turn, or None to send none. questions: template by reference name or kind; "markers"
    where a view carries several, each with a question of its own (absent: the prompt can ask of one alone).
    answer: template of the trained answer, {value} in metres. language: in which tasks other than distance are asked
    (tasks/); None where the prompt has words for distances alone. pointers: how those questions name a point, by kind
    ("markers" where there are several, told apart by {colour}), and an object: "box" where its outline is drawn,
    "region" with the coordinates of two corners. introduction: what they begin with, by kind, and for "region".
    per_decade: None for numbers of two decimals; n for the nearest of n numbers per decade, evenly spaced in ratio, as
    a string of two significant digits ("0.46", "2.4", "12").
    coordinate_range: R of text coordinates that the words are made for; set for prompts of models that nobody trained
    to measure (`is_general`), None where the model's card says it.
    source: where the words come from.
    """

    name: str
    questions: Mapping[str, str]
    answer: str
    system: str | None = None
    language: str | None = None
    pointers: Mapping[str, str] = field(
        default_factory=lambda: {
            "marker": "the red {marker}",
            "markers": "the {colour} {marker}",
            "text": "({x}, {y})",
            "box": "the {colour} box",
            "region": "bounding box region ({x1}, {y1}, {x2}, {y2})",  # vlm3.md 1.4, after SpatialRGPT
        }
    )
    introduction: Mapping[str, str] = field(default_factory=dict)
    per_decade: int | None = None
    coordinate_range: int | None = None
    source: str = field(default="ours", compare=False)

    @property
    def answer_prefix(self) -> str:
        """The constant text before the first number of every answer; it can be forced and shared in decoding."""
        return self.answer.partition("{")[0]

    @property
    def is_general(self) -> bool:
        """Whether it asks a model that was never trained to measure: pictures are shown as they are."""
        return self.coordinate_range is not None

    def supports(self, reference: Reference) -> bool:
        """Whether this prompt has words for that reference."""
        return self._template(reference) is not None

    def question(self, reference: Reference, uv: ArrayLike, camera: Camera, mark: int | None = None) -> str:
        """The question about point uv [2] of the view whose camera is given.

        mark: which of several markers on the view it is; None where there is one.
        Raises InputError when the prompt has no words for the reference, or for several markers.
        """
        several = reference.kind == "marker" and mark is not None
        template = self.questions.get("markers") if several else self._template(reference)
        if template is None and several:
            raise InputError(f"prompt {self.name!r} has no question about one of several markers; draw one per view")
        if template is None:
            raise InputError(
                f"prompt {self.name!r} has no question for reference {reference.name!r}; it asks by "
                f"{', '.join(self.questions)}"
            )
        return self._fill(template, reference, uv, camera, mark or 0)

    def pointer(self, reference: Reference, uv: ArrayLike, camera: Camera, mark: int | None = None) -> str:
        """The words that point at uv [2] in a question other than the distance question.

        mark: which of several markers it is; None where there is one.
        """
        several = reference.kind == "marker" and mark is not None
        return self._fill(self.pointers["markers" if several else reference.kind], reference, uv, camera, mark or 0)

    def region(self, reference: Reference, box: Box, camera: Camera, mark: int) -> str:
        """The words that point at an object's box (u0, v0, u1, v1) pixels; mark: which of the drawn boxes it is."""
        if reference.kind == "marker":
            return self.pointers["box"].format(colour=MARKER_COLOURS[mark][0])
        x1, y1 = reference.coordinates(box[:2], camera.width, camera.height)
        x2, y2 = reference.coordinates(box[2:], camera.width, camera.height)
        return self.pointers["region"].format(x1=x1, y1=y1, x2=x2, y2=y2)

    def introduce(self, reference: Reference, camera: Camera, *, regions: bool = False) -> str:
        """What a question other than the distance question begins with; regions: one about objects."""
        key: str = "region" if regions and reference.kind == "text" else reference.kind
        if reference.kind == "text" and reference.coordinate_range is None:
            key += "-pixels"
        return self._fill(self.introduction.get(key, ""), reference, (0, 0), camera)

    def _fill(self, template: str, reference: Reference, uv: ArrayLike, camera: Camera, mark: int = 0) -> str:
        x, y = reference.coordinates(uv, camera.width, camera.height) if reference.kind == "text" else (None, None)
        return template.format(
            marker=reference.name,
            colour=MARKER_COLOURS[mark][0],
            x=x,
            y=y,
            range=reference.coordinate_range,
            width=camera.width,
            height=camera.height,
            fx=camera.fx,
            fy=camera.fy,
            cx=camera.cx,
            cy=camera.cy,
        )

    def number(self, value: float) -> str:
        """A positive number as this prompt's answers write it."""
        if self.per_decade is None:
            return f"{value:.{_DECIMALS}f}"
        step = round(math.log10(value) * self.per_decade)
        return significant(10 ** (step / self.per_decade), _SIGNIFICANT)

    def size(self, value: float, decimals: int) -> str:
        """How large a number is whose sign is told apart and that may be 0: an angle, a part of a direction.

        decimals: how many a prompt with decimals writes.
        """
        if self.per_decade is None:
            return f"{abs(value):.{decimals}f}"
        return "0" if abs(value) < 0.05 else self.number(max(abs(value), 0.1))

    def signed(self, value: float, decimals: int) -> str:
        """The same with + or -; what is written as zero has a +."""
        size = self.size(value, decimals)
        return ("-" if value < 0 and float(size) else "+") + size

    def complete(self, number: str) -> bool:
        """Whether a number that is being written has all the digits that this prompt's answers give it."""
        if self.per_decade is None:
            return len(number.partition(".")[2]) >= _DECIMALS
        return len(number.replace(".", "").lstrip("0")) >= _SIGNIFICANT

    def format_answer(self, metres: float) -> str:
        """The text a model is trained to answer with."""
        return self.answer.format(value=self.number(metres))

    def _template(self, reference: Reference) -> str | None:
        if reference.name in self.questions:
            return self.questions[reference.name]
        # Words about normalised coordinates would be a lie about raw pixels: those need their own entry.
        is_pixels = reference.kind == "text" and reference.coordinate_range is None
        return None if is_pixels else self.questions.get(reference.kind)


DEPTHLM_OFFICIAL = Prompt(
    name="depthlm-official",
    questions={
        "arrow": "Given this image, how far is the point pointed by the red arrow from the camera?" + _RELEASED_FORMAT,
    },
    answer=_RELEASED_ANSWER,
    source="facebook/DepthLM, paper.md 1.1; no system turn (Qwen2.5-VL's own template adds its default sentence)",
)

VLM3_DEPTH = Prompt(
    name="vlm3-depth",
    questions={
        "text": "Given this image, how far is the point at coordinates ({x}, {y}) from the camera? The coordinates are"
        " in normalised [0, {range}] format relative to image width and height." + _RELEASED_FORMAT,
    },
    answer=_RELEASED_ANSWER,
    source="facebook/VLM3-depth, vlm3.md 1.4; the answer text is DepthLM's, the release stores none",
)

VLM3_PAPER = Prompt(
    name="vlm3-paper",
    questions={
        "text": "How far is the pixel at ({x}, {y}) from the camera? Both x and y are normalized to between"
        " [0, {range}).",
    },
    answer="{value} meters",
    source="VLM3's paper, vlm3.md 1.4",
)

# Coordinates come last, so that every question about an image shares its tokens up to the numbers.
DEPTHLM = Prompt(
    name="depthlm",
    questions={
        "marker": "How many meters is the point marked by the red {marker} from the camera?",
        "markers": "How many meters is the point marked by the {colour} {marker} from the camera?",
        "text": "Points are (x, y), each normalized to [0, {range}) over the image. How many meters is this point from"
        " the camera? ({x}, {y})",
        "text-pixels": "Points are (x, y) in pixels. How many meters is this point from the camera? ({x}, {y})",
    },
    answer="<answer>{value}</answer>",
    language="english",
    introduction={
        "text": "Points are (x, y), each normalized to [0, {range}) over the image. ",
        "text-pixels": "Points are (x, y) in pixels. ",
        "region": "Boxes are (x1, y1, x2, y2), each normalized to [0, {range}) over the image. ",
        "region-pixels": "Boxes are (x1, y1, x2, y2) in pixels. ",
    },
)

INTRINSICS = Prompt(
    name="intrinsics",
    questions={
        kind: "The camera has focal lengths fx = {fx:.1f}, fy = {fy:.1f} and principal point ({cx:.1f}, {cy:.1f}) in"
        " pixels; the image is {width} x {height}. " + DEPTHLM.questions[kind]
        for kind in DEPTHLM.questions
    },
    answer=DEPTHLM.answer,
    source="the alternative to focal unification that lost in the paper (Fig. 4a); the words are ours",
)

TEXT_PIXELS = Prompt(
    name="text-pixels",
    questions={
        "text-pixels": "Given this image of size (width = {width}, height = {height}), how far is the pixel at"
        " ({x}, {y}) from the camera?",
    },
    answer="The point is around {value} meters away from the camera.",
    source="the text reference that lost to the marker in the paper, paper.md 1.1",
)

# The embedded model's few words; its tokenizer (models/nano.py) holds each coordinate and each number in one token.
# Answers come from the E24 series (1.0 1.1 1.2 1.3 1.5 ...), evenly spaced in ratio, which matters: of plain
# two-digit numbers those after 1 are ten times as wide as those before 10, and the likeliest token is then too small.
NANO = Prompt(
    name="nano",
    questions={
        "marker": "distance at the {marker}",
        "markers": "distance at the {colour} {marker}",
        "text": "distance at x{x} y{y}",
        # Raw pixels pass the 100 coordinate words: "x143" takes two tokens, as numbers do in general tokenizers.
        "text-pixels": "distance in {width} / {height} at x{x} y{y}",
    },
    language="nano",
    pointers={
        "marker": "the {marker}",
        "markers": "the {colour} {marker}",
        "text": "x{x} y{y}",
        "box": "the {colour} box",
        "region": "box x{x1} y{y1} x{x2} y{y2}",
    },
    answer="{value}",
    per_decade=24,
)

# Models that nobody trained to measure (Gemini, GPT, Qwen, ...). They must be told what a marker or a coordinate is and
# that an estimate is wanted. What they know of coordinates differs, and so do the words.
_ESTIMATE = (
    " How far is the surface at that point from the camera, in a straight line, in meters? Give your best estimate even"
    " if you are unsure. Reply with one number between tags and nothing else: <answer>NUMBER</answer>"
)
_MARKED = {
    "arrow": "A small red arrow is drawn on the picture; its tip, on the right, touches one point." + _ESTIMATE,
    "marker": "A small red {marker} is drawn on the picture; its centre is one point." + _ESTIMATE,
}

GENERAL = Prompt(
    name="general",
    questions={
        **_MARKED,
        "text": "Coordinates are (x, y): x runs from 0 at the left edge of the picture to {range} at the right edge, y"
        " from 0 at the top to {range} at the bottom. Look at the point ({x}, {y})." + _ESTIMATE,
        "text-pixels": "The picture is {width} pixels wide and {height} pixels high. Look at the pixel ({x}, {y}),"
        " counted from the top left corner." + _ESTIMATE,
    },
    answer=DEPTHLM.answer,
    coordinate_range=1000,
)

GENERAL_CAMERA = Prompt(
    name="general-camera",
    questions={
        kind: "The camera has focal lengths fx = {fx:.1f}, fy = {fy:.1f} and principal point ({cx:.1f}, {cy:.1f}) in"
        " pixels; the picture is {width} x {height}. " + words
        for kind, words in GENERAL.questions.items()
    },
    answer=DEPTHLM.answer,
    coordinate_range=1000,
)

GEMINI = Prompt(
    name="gemini",
    questions={
        **_MARKED,
        "text": "Points are [y, x], normalized to 0-{range}. Look at the point [{y}, {x}]." + _ESTIMATE,
    },
    answer=DEPTHLM.answer,
    coordinate_range=1000,
    source="points as Gemini's documentation of image understanding states them: [y, x], 0 to 1000; the words are ours",
)

QWEN = Prompt(
    name="qwen",
    questions={
        **_MARKED,
        "text": 'Look at the point {{"point_2d": [{x}, {y}]}}, in relative coordinates from 0 to {range}.' + _ESTIMATE,
        "text-pixels": 'Look at the point {{"point_2d": [{x}, {y}]}}, in pixels of the {width} x {height} picture.'
        + _ESTIMATE,
    },
    answer=DEPTHLM.answer,
    coordinate_range=1000,
    source="points as Qwen3-VL (text: 0 to 1000) and Qwen2.5-VL (text-pixels) are taught to write them; words are ours",
)

# Alternatives to NANO that docs/study.md compares with it.
NANO_INTRINSICS = replace(
    NANO,
    name="nano-intrinsics",
    questions={"text": "camera {fx:.0f} {fy:.0f} {cx:.0f} {cy:.0f} in {width} / {height} " + NANO.questions["text"]},
    source="INTRINSICS in nano's words",
)
NANO_DECIMALS = replace(NANO, name="nano-decimals", per_decade=None, source="nano's questions, answers as in the paper")

PROMPTS: dict[str, Prompt] = {
    prompt.name: prompt
    for prompt in (
        DEPTHLM_OFFICIAL, VLM3_DEPTH, VLM3_PAPER, DEPTHLM, INTRINSICS, TEXT_PIXELS, NANO,
        NANO_INTRINSICS, NANO_DECIMALS, GENERAL, GENERAL_CAMERA, GEMINI, QWEN,
    )
}  # fmt: skip


def get_prompt(name: str) -> Prompt:
    """The prompt set of that name. Raises InputError for an unknown one."""
    if name not in PROMPTS:
        raise InputError(f"unknown prompt {name!r}; choose one of {', '.join(PROMPTS)}")
    return PROMPTS[name]
