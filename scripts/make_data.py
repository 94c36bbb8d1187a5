"""Writes specs/data/: the small data sets of the zoo's train sections, each from a seed (specs/data/README.md)."""

from __future__ import annotations

import json
import math
import random
import shutil
import wave
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent.parent / "specs" / "data"

# ---- points ----------------------------------------------------------------------------------------------------------


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


# ---- running text ----------------------------------------------------------------------------------------------------

NAMES = "Ada Boris Clara Dmitri Elena Felix Greta Hugo Irma Jonas Katya Lorenz Mina Nils Olga Pavel".split()
THINGS = "kite lantern basket drum trumpet ladder violin kettle saddle anchor mirror whistle barrel candle".split()
COLOURS = "red green blue yellow white black silver golden".split()
PLACES = "harbour mill orchard market chapel quarry bakery lighthouse stable bridge".split()
TRADES = "baker sailor weaver miller painter shepherd tailor clockmaker".split()
WEATHER = (
    "It was raining. | The sun was out. | A wind had come up. | Snow lay on the roofs. | Fog hid the hills.".split(
        " | "
    )
)
NUMBERS = "two three four five six seven eight nine".split()


def stories(size: int, seed: int) -> str:
    """About `size` characters of little stories. What a sentence says of a name was told sentences before, so that the
    word at hand does not foretell the next one: who owns what, its colour, who has it now, where it is in the end.
    """
    draw = random.Random(seed)
    found: list[str] = []
    length = 0
    while length < size:
        found.append(" ".join(_story(draw)) + "\n")
        length += len(found[-1])
    return "\n".join(found)


def _story(draw: random.Random) -> Iterator[str]:
    one, two = draw.sample(NAMES, 2)
    thing, other = draw.sample(THINGS, 2)
    colour, place, end = draw.choice(COLOURS), draw.choice(PLACES), draw.choice(PLACES)
    trade, count = draw.choice(TRADES), draw.choice(NUMBERS)
    yield f"{one} the {trade} had a {colour} {thing} and {count} old {other}s."
    if draw.random() < 0.5:
        yield draw.choice(WEATHER)
    yield f"One {draw.choice(['morning', 'evening', 'day'])} {one} went to the {place} and met {two}."
    asked = draw.choice([
        f'"Whose {thing} is that?" asked {two}. "It is mine," said {one} the {trade}.',
        f'"What a fine {colour} {thing}!" said {two}. {one} was glad.',
        f'"How many {other}s have you got?" asked {two}. "I have {count}," said {one}.',
    ])  # fmt: skip
    yield asked
    owner, kept = (two, f"{count} old {other}s") if draw.random() < 0.6 else (one, f"{colour} {thing}")
    if owner == two:
        yield f"So {one} gave the {colour} {thing} to {two} and kept the {kept}."
    else:
        yield f"But {one} would not part with the {kept}, and {two} went away."
    yield f"At night {owner} carried the {thing} from the {place} to the {end}."
    yield f"There the {colour} {thing} of {owner} still is, at the {end}."


# ---- rows of text ----------------------------------------------------------------------------------------------------

GOOD = "wonderful charming clever moving brilliant funny graceful gripping honest bright".split()
BAD = "dull clumsy tedious hollow noisy tiresome bland confusing lifeless shallow".split()
SUBJECTS = "the film | the plot | the cast | this story | the music | the ending | her acting | the dialogue".split(
    " | "
)
FRAMES = (
    "{subject} is {word}",
    "i found {subject} {word}",
    "{subject} was {word} from the first minute",
    "what a surprise , {subject} turned out {word}",
    "my friends said {subject} would be {word} , and it is",
)
TURNED = ("{subject} is not {word} at all", "nobody could call {subject} {word}", "{subject} is anything but {word}")


def reviews(rows: int, seed: int) -> str:
    """Sentences that praise (1) or blame (0); three in ten turn the meaning of their word around."""
    draw = random.Random(seed)
    found: dict[str, int] = {}
    while len(found) < rows:
        good, turned = draw.random() < 0.5, draw.random() < 0.3
        frame = draw.choice(TURNED if turned else FRAMES)
        word = draw.choice(GOOD if good else BAD)
        very = draw.choice(["", "", "very ", "really ", "quite "])
        found[frame.format(subject=draw.choice(SUBJECTS), word=very + word)] = int(good != turned)
    return "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in found.items())


JUDGED = "the inn | our room | the soup | the host | this garden | the bread | the market | the view".split(" | ")


def ratings(rows: int, seed: int) -> str:
    """The same words of other things, in four grades: 0 is very bad, 3 very good."""
    draw = random.Random(seed)
    found: dict[str, int] = {}
    while len(found) < rows:
        good, turned, very = draw.random() < 0.5, draw.random() < 0.3, draw.random() < 0.5
        frame = draw.choice(TURNED if turned else FRAMES)
        word = draw.choice(GOOD if good else BAD)
        sure = draw.choice(["very ", "really "] if very else ["", "quite "])
        grade = (3 if very else 2) if good else (0 if very else 1)
        text = frame.format(subject=draw.choice(JUDGED), word=sure + word)
        found[text] = 3 - grade if turned else grade
    return "text,grade\n" + "".join(f'"{text}",{grade}\n' for text, grade in found.items())


def reversals(rows: int, seed: int) -> str:
    """Words and the same backwards, each word once."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < rows:
        found["".join(draw.choice("abcdefghijklmnop") for _ in range(draw.randint(3, 8)))] = None
    return "".join(json.dumps({"word": word, "back": word[::-1]}) + "\n" for word in found)


def parted(table: str, rows: int, header: bool) -> tuple[str, str]:
    """All but the last rows of a table, and those, which are held out."""
    lines = table.splitlines(keepends=True)
    return "".join(lines[:-rows]), "".join(lines[:1] * header + lines[-rows:])


# ---- images, sounds --------------------------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x**2 + y**2 < 1,
    "square": lambda x, y: (abs(x) < 0.85) & (abs(y) < 0.85),
    "triangle": lambda x, y: (y < 0.8) & (y > 2 * abs(x) - 1),
    "cross": lambda x, y: ((abs(x) < 0.3) | (abs(y) < 0.3)) & (abs(x) < 1) & (abs(y) < 1),
}
"""Whether a point is inside, of -1 .. 1."""


def shapes(count: int, size: int, seed: int) -> dict[str, np.ndarray]:
    """`image` [count, 3, size, size], bytes: one shape each, of any colour, size, place and tilt; `label` [count]."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[0:size, 0:size].astype(np.float64)
    images = np.empty((count, 3, size, size), np.uint8)
    labels = np.arange(count) % len(SHAPES)
    for image, label in zip(images, labels, strict=True):
        radius = rng.uniform(0.22, 0.36) * size
        middle = rng.uniform(radius, size - radius, 2)
        tilt = rng.uniform(-0.35, 0.35)
        x, y = (right - middle[0]) / radius, (down - middle[1]) / radius
        x, y = x * math.cos(tilt) + y * math.sin(tilt), y * math.cos(tilt) - x * math.sin(tilt)
        inside = list(SHAPES.values())[label](x, y)
        ground = rng.integers(0, 256, 3)
        colour = (ground + rng.integers(90, 166, 3)) % 256
        image[:] = np.where(inside, colour[:, None, None], ground[:, None, None])
    return {"image": images, "label": labels}


def archive(arrays: dict[str, np.ndarray]) -> bytes:
    """A numpy archive that is the same bytes each time."""
    found = BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            content = BytesIO()
            np.save(content, array)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)
    return found.getvalue()


RATE, SECONDS = 8000, 0.25
TONES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "falling": lambda t: 1 - 0.5 * t,
    "flat": lambda t: np.ones_like(t),
    "rising": lambda t: 1 + t,
    "warble": lambda t: 1 + 0.25 * np.sin(2 * np.pi * 5 * t),
}
"""The pitch over the time of 0 .. 1, as a multiple of the first one."""


def tones(kind: str, count: int, seed: int) -> Iterator[bytes]:
    """Wave files of 8 bits: a tone of any pitch and loudness with its overtones, and some noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(RATE * SECONDS)) / RATE
    for _ in range(count):
        pitch = rng.uniform(300, 900) * TONES[kind](time / SECONDS)
        phase = 2 * np.pi * np.cumsum(pitch) / RATE + rng.uniform(0, 2 * np.pi)
        sound = sum(np.sin(n * phase) * rng.uniform(0.2, 1) / n for n in (1, 2, 3))
        sound = rng.uniform(0.3, 0.9) * sound / np.abs(sound).max() + 0.02 * rng.normal(size=len(time))
        found = BytesIO()
        with wave.open(found, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(1)
            file.setframerate(RATE)
            file.writeframes(np.clip(128 + 127 * sound, 0, 255).astype(np.uint8).tobytes())
        yield found.getvalue()


# ---- all of it -------------------------------------------------------------------------------------------------------


def files() -> Iterator[tuple[str, bytes]]:
    """Every file by its path."""
    yield "points.csv", b"x,label\n-1.0,0\n0.5,0\n2.0,1\n"
    yield "spirals.csv", spirals(arms=3, points=120, seed=0).encode()
    yield "stories.txt", stories(size=900_000, seed=0).encode()
    train, test = parted(reviews(rows=700, seed=0), 150, header=True)
    yield "reviews.csv", train.encode()
    yield "reviews_test.csv", test.encode()
    train, test = parted(ratings(rows=1500, seed=0), 150, header=True)
    yield "ratings.csv", train.encode()
    yield "ratings_test.csv", test.encode()
    train, test = parted(reversals(rows=3300, seed=0), 300, header=False)
    yield "reversals.jsonl", train.encode()
    yield "reversals_test.jsonl", test.encode()
    yield "shapes.npz", archive(shapes(count=2400, size=32, seed=0))
    yield "shapes_test.npz", archive(shapes(count=200, size=32, seed=1))
    for split, count, seed in (("train", 60, 0), ("test", 25, 100)):
        for number, kind in enumerate(TONES):
            for i, content in enumerate(tones(kind, count, seed + number)):
                yield f"tones/{split}/{kind}/{i:02}.wav", content


if __name__ == "__main__":
    shutil.rmtree(DATA / "tones", ignore_errors=True)
    for name, content in files():
        (DATA / name).parent.mkdir(parents=True, exist_ok=True)
        (DATA / name).write_bytes(content)
