"""Curves as PNG, drawn with Pillow."""

import math
from pathlib import Path

from PIL import Image, ImageDraw

SIZE, MARGIN, GAP = (560, 340), 48, 8
COLOURS = ("#1f5fb4", "#c8501e", "#2e8b57", "#7a4ea3")


def curves(path: Path, panels: dict[str, dict[str, list[float]]], first: int = 1) -> None:
    """Writes one panel for each title beside each other; each curve has a value for each epoch from number `first` on,
    or NaN where there is none."""
    picture = Image.new("RGB", (SIZE[0] * len(panels), SIZE[1]), "white")
    draw = ImageDraw.Draw(picture)
    for place, (title, series) in enumerate(panels.items()):
        _panel(draw, place * SIZE[0], title, series, first)
    picture.save(path)


def _panel(draw: ImageDraw.ImageDraw, offset: int, title: str, series: dict[str, list[float]], first: int) -> None:
    left, right, top, bottom = offset + MARGIN + 12, offset + SIZE[0] - MARGIN // 2, MARGIN, SIZE[1] - MARGIN
    values = [value for curve in series.values() for value in curve if math.isfinite(value)]
    count = max(map(len, series.values()), default=0)
    low, high = min(values, default=0.0), max(values, default=1.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)

    def at(epoch: int, value: float) -> tuple[float, float]:
        across = epoch / max(1, count - 1) if count > 1 else 0.5
        return left + across * (right - left), bottom - (value - low) / (high - low) * (bottom - top)

    draw.text((left, GAP), title, fill="black")
    draw.rectangle((left, top, right, bottom), outline="#888888")
    for step in range(5):
        value = low + (high - low) * step / 4
        y = at(0, value)[1]
        draw.line((left, y, right, y), fill="#dddddd")
        draw.text((offset + GAP, y - 6), f"{value:.4g}", fill="black")
    for epoch in range(0, count, max(1, count // 10)):
        draw.text((at(epoch, low)[0] - 3, bottom + 4), str(first + epoch), fill="black")
    draw.text(((left + right) / 2 - 15, bottom + 20), "epoch", fill="black")
    for colour, (place, (name, curve)) in zip(COLOURS, enumerate(series.items())):
        points = [at(epoch, value) for epoch, value in enumerate(curve) if math.isfinite(value)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        draw.text((left + 6 + 130 * place, top - 16), name, fill=colour)
