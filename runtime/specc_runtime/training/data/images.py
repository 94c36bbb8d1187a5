"""Images as arrays, by Pillow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specc.elaborate.values import number
from specc.source import Span
from specc_runtime.libraries import needs
from specc_runtime.training.data.blobs import Blobs
from specc_runtime.training.data.columns import Array, Column, Decoded, bad
from specc_runtime.training.section import failed

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def opened(blobs: Blobs, row: int, span: Span | None) -> Image.Image:
    """A decoded image, turned as its camera says; T531 if it is none."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with blobs.open(row) as file, Image.open(file) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise bad(f"{blobs.place(row)} is not an image", span) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: a broken png
        raise bad(f"{blobs.place(row)}: the image cannot be decoded: {error}", span) from None


@dataclass(frozen=True)
class Raw:
    """An image as it is stored: [height, width], or [height, width, channels]."""

    blobs: Blobs
    span: Span | None
    shape: tuple[int, ...] = ()

    def __call__(self, row: int) -> Array:
        found = np.array(opened(self.blobs, row, self.span))
        if self.shape and found.shape != self.shape:
            message = f"{self.blobs.place(row)}: the image is {list(found.shape)}, the first one {list(self.shape)}"
            raise bad(message, self.span, "pixels(size = 32)  gives all images one size")
        return found


@dataclass(frozen=True)
class Pixels:
    """An image as [channels, size, size] in `low` .. `high`: its middle, scaled. `size` None: as large as the first."""

    blobs: Blobs
    span: Span
    size: int | None
    low: float
    high: float
    mode: str
    shape: tuple[int, ...] = ()

    def __call__(self, row: int) -> Array:
        from PIL import Image, ImageOps

        image = self._in_bytes(opened(self.blobs, row, self.span), row).convert(self.mode)
        if self.size is not None:
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.BICUBIC)
        values = np.asarray(image, np.float32)
        found = np.moveaxis(values, -1, 0) if values.ndim == 3 else values[None]
        if self.shape and found.shape != self.shape:
            message = f"{self.blobs.place(row)}: the image is {list(found.shape)}, the first one {list(self.shape)}"
            raise bad(message, self.span, "pixels(size = 32)  gives all images one size")
        return found * np.float32((self.high - self.low) / 255) + np.float32(self.low)

    def _in_bytes(self, image: Image.Image, row: int) -> Image.Image:
        """Pillow would cut the values of 16 bits off at 255. T531 for fractions, of which no range is known."""
        from PIL import Image

        if image.mode == "F":
            message = f"{self.blobs.place(row)}: the image has fractions, pixels takes those of 8 or 16 bits"
            raise bad(message, self.span, 'column("image")  takes the values as they are')
        if not image.mode.startswith("I"):
            return image
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise bad(f"{self.blobs.place(row)}: the image has more than 16 bits", self.span)
        return Image.fromarray(np.round(values / 257).astype(np.uint8))


def image_column(blobs: Blobs, span: Span) -> Column:
    """`column("image")`: the images as they are stored, of one size."""
    needs("this data", "PIL", span=span)
    first = Raw(blobs, span)(0)
    return Decoded(Raw(blobs, span, first.shape), len(blobs), first)


def pixels(blobs: Blobs, given: Mapping[str, Any], span: Span) -> Column:
    """`pixels(size, range = (0.0, 1.0), channels = 3)`."""
    needs("this data", "PIL", span=span)
    size, channels = given.get("size"), given.get("channels", 3)
    if size is not None and (type(size) is not int or size < 1):
        raise failed("E125", "`size` is the height and width of the images, at least 1", span)
    if channels not in MODES:
        raise failed("E125", "`channels` is 1 (grey), 3 (colours) or 4 (with transparency)", span)
    range_ = given.get("range", (0.0, 1.0))
    if not isinstance(range_, tuple) or len(range_) != 2 or not all(map(number, range_)) or range_[0] >= range_[1]:
        raise failed("E125", "`range` is what black and white become: (-1.0, 1.0)", span)
    make = Pixels(blobs, span, size, float(range_[0]), float(range_[1]), MODES[channels])
    first = make(0)
    fixed = Pixels(make.blobs, span, size, make.low, make.high, make.mode, first.shape)
    return Decoded(fixed, len(blobs), first)
