"""Writes specs/data/: the small data sets of the zoo's train sections, from a seed."""

from __future__ import annotations

import math
import random
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "specs" / "data"


def spirals(arms: int, points: int, seed: int) -> str:
    """Points of spirals that wind around each other, each arm a class."""
    draw = random.Random(seed)
    rows = []
    for arm in range(arms):
        for i in range(points):
            radius = (i + 1) / points
            angle = 2 * math.pi * arm / arms + 4.5 * radius + draw.gauss(0.0, 0.1)
            rows.append(f"{radius * math.cos(angle):.4f},{radius * math.sin(angle):.4f},{arm}\n")
    return "x,y,arm\n" + "".join(rows)


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    (DATA / "points.csv").write_text("x,label\n-1.0,0\n0.5,0\n2.0,1\n", "utf-8")
    (DATA / "spirals.csv").write_text(spirals(arms=3, points=120, seed=0), "utf-8")
