"""A window of PIL's bicubic resample, without computing all of the rest."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from depthlm.rgbx import as_image, view_levels

_REACH = 3  # source rows on either side that a resampled row may look at when rows are not made fewer


def resample_window(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """`box` (left, top, right, bottom; inside the picture) of the RGB image resampled to `size` (width, height).

    Within one grey level of `image.resize(size, BICUBIC).crop(box)`. Where rows are not made fewer, PIL resamples along
    rows, rounds, then along columns; so does this. The first is PIL's own, of the rows that the box needs: bit for bit.
    The second is torch's (antialiased: the same kernel), of the columns that the box keeps: its weights of 16 bits move
    a value by far less than half a level, so that rounding moves it by one at most. What else looks faster is not as
    close: PIL's `resize(box=...)` holds the box in float32 and is two levels off in places, as torch is when it does
    both. Pictures that lose rows are resampled whole, as which axis PIL does first then depends on its version.
    """
    left, top, right, bottom = box
    if size[1] < image.height:
        return image.resize(size, Image.Resampling.BICUBIC).crop(box)
    import torch
    from torch.nn.functional import interpolate

    ratio = image.height / size[1]
    first, last = max(0, math.floor(top * ratio) - _REACH), min(image.height, math.ceil(bottom * ratio) + _REACH)
    if last - first > 0.9 * image.height:  # leaving the others out would take longer
        first, last = 0, image.height
    strip = image if last - first == image.height else image.crop((0, first, image.width, last))
    levels = view_levels(strip.resize((size[0], strip.height), Image.Resampling.BICUBIC))[:, left:right]
    rows = np.empty((image.height, *levels.shape[1:]), dtype=np.uint8)
    rows[:first] = rows[last:] = 0  # black where the box does not look
    rows[first:last] = levels
    planes = torch.from_numpy(rows)[None].permute(0, 3, 1, 2)  # channels last in memory: the fast kernel
    resampled = interpolate(planes, size=(size[1], right - left), mode="bicubic", antialias=True)
    return as_image(resampled.permute(0, 2, 3, 1)[0, top:bottom].numpy())
