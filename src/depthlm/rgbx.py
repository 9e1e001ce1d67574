"""PIL's own memory of an RGB picture as an array, and an array as a picture, without a copy.

PIL keeps three channels in four bytes a pixel; `np.asarray` and `Image.fromarray` repack all of them, at every step
of a picture's way to the model. Through Arrow's interface they need not be touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def view_levels(image: Image.Image) -> NDArray[np.uint8]:
    """RGB image -> uint8 [H, W, 4], read-only, of which the last channel is no part of the picture.

    [H, W, 3] of a picture that PIL does not keep in one piece (above 16 MB). Drawing into the image shows in the array.
    """
    try:
        flat: NDArray[np.uint8] = np.asarray(pa.array(image).values)
    except ValueError:
        return np.asarray(image)
    return flat.reshape(image.height, image.width, 4)


def as_image(levels: NDArray[np.uint8]) -> Image.Image:
    """uint8 [H, W, 4] or [H, W, 3] -> RGB image; the first shares memory that nobody may write to any more."""
    height, width, channels = levels.shape
    if channels == 3:
        return Image.fromarray(levels)
    flat = pa.array(np.ascontiguousarray(levels).reshape(-1))
    return Image.fromarrow(pa.FixedSizeListArray.from_arrays(flat, 4), "RGB", (width, height))
