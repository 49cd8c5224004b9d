"""A labelled picture of samples: one row a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dblocks.data.files import save_atomically

CELL = 32  # least pixels of a shown image
MARGIN, LINE = 28, 14  # room for the class at the left, height of a line of text


def write_grid(path: Path, rows: Mapping[int, np.ndarray], title: Sequence[str]) -> None:
    """Write a PNG of `rows`, by class uint8 [n, C, H, W], the class's number before each and lines of title above."""
    first = next(iter(rows.values()))
    factor = max(1, -(-CELL // first.shape[2]))
    side, columns = factor * first.shape[2], max(map(len, rows.values()))
    top = LINE * len(title) + 6
    canvas = Image.new(
        "RGB", (max(MARGIN + columns * (side + 2), 8 * max(map(len, title))), top + len(rows) * (side + 2))
    )
    pen = ImageDraw.Draw(canvas)
    for i, line in enumerate(title):
        pen.text((4, 3 + LINE * i), line.encode("ascii", "replace").decode())
    for i, (label, row) in enumerate(rows.items()):
        y = top + i * (side + 2)
        pen.text((4, y + side // 2 - 6), str(label))
        for column, image in enumerate(row):
            pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
            tile = Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(tile, (MARGIN + column * (side + 2), y))
    save_atomically(path, lambda file: canvas.save(file, "PNG"))
