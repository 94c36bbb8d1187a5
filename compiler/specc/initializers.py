"""Initialisers of parameters: signature, values drawn in numpy, and the torch statement that does the same.

`SIGNATURES` is what a spec may write, `problem` what is wrong with the arguments, `draw` the values (reproducible from
the generator's state; in blocks, so that a large tensor need not be resident), `torch` the line of emitted source. The
distributions are those of torch.nn.init, the streams of random numbers are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float32]]
    Fill = Callable[[int, int], Array]  # (position of the first element, how many) -> values, flat

Arguments = Mapping[str, Any]
Shape = tuple[int, ...]


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()
"""The default of a parameter that must be given."""

_BASE = 10_000.0

SIGNATURES: Final[Mapping[str, Mapping[str, Any]]] = {
    "zeros": {},
    "ones": {},
    "constant": {"v": REQUIRED},
    "eye": {},
    "normal": {"std": REQUIRED, "mean": 0.0, "zero_row": None},
    "trunc_normal": {"std": REQUIRED, "a": -2.0, "b": 2.0},
    "uniform": {"a": REQUIRED, "b": REQUIRED},
    "uniform_fan_in": {"n": REQUIRED},
    "xavier_uniform": {"gain": 1.0},
    "xavier_normal": {"gain": 1.0},
    "kaiming_uniform": {"mode": "fan_in", "a": 0.0},
    "kaiming_normal": {"mode": "fan_in", "a": 0.0},
    "orthogonal": {"gain": 1.0},
    "sinusoids": {"layout": "interleaved", "shift": 0, "base": _BASE},
    "log_arange": {"start": REQUIRED},
}
"""Initialiser -> its parameters in order -> their defaults."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "mode": ("fan_in", "fan_out"),
    "layout": ("interleaved", "sin_cos", "cos_sin"),
}
_INTEGERS = ("n", "shift", "zero_row")
_MATRICES = ("xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", "orthogonal")
_BLOCK = 1 << 20
"""Elements drawn at a time: 4 MiB. Part of what makes a draw reproducible."""
_TAIL = 9.0
"""No float32 normal number is further from its mean, in standard deviations."""


# ---- admissible arguments --------------------------------------------------------------------------------------------


def problem(name: str, args: Arguments, shape: Shape) -> str | None:
    """What is wrong with initialising a tensor of this shape so, in words of the spec; None if nothing is."""
    for key, value in args.items():
        wrong = _argument_problem(key, value)
        if wrong is not None:
            return f"{name}: {wrong}"
    if name in _MATRICES and len(shape) < 2:
        return f"{name} needs a tensor of at least 2 axes, found {len(shape)}"
    if name in ("eye", "sinusoids") and len(shape) != 2:
        return f"{name} needs a matrix, found {len(shape)} axes"
    if name == "sinusoids" and (shape[1] % 2 or shape[1] // 2 <= args["shift"]):
        return f"sinusoids needs an even number of channels above 2*shift, found {shape[1]}"
    if name == "log_arange" and (not shape or args["start"] <= 0):
        return "log_arange needs a tensor with axes and start > 0"
    if name == "uniform" and args["a"] > args["b"]:
        return f"uniform: a must not exceed b, found {args['a']} and {args['b']}"
    if name == "trunc_normal" and not (args["a"] < args["b"] and args["a"] <= 4 and args["b"] >= -4):
        return "trunc_normal: a must be less than b, and one of them within 4 standard deviations of 0"
    if name == "normal" and args["zero_row"] is not None:
        rows = shape[0] if shape else 0
        if not -rows <= args["zero_row"] < rows:
            return f"normal: there is no row {args['zero_row']} among {rows}"
    return None


def _argument_problem(key: str, value: Any) -> str | None:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            return f"{key} must be one of {', '.join(_CHOICES[key])}; found {value!r}"
        return None
    if key == "zero_row" and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if key in _INTEGERS else (int, float)):
        return f"{key} must be {'an int' if key in _INTEGERS else 'a number'}, found {value!r}"
    if not math.isfinite(value):
        return f"{key} must be finite"
    least = {"n": 1, "shift": 0, "std": 0}.get(key)
    if least is not None and value < least:
        return f"{key} must be at least {least}, found {value}"
    return f"base must be positive, found {value}" if key == "base" and value <= 0 else None


# ---- values ----------------------------------------------------------------------------------------------------------


def draw(name: str, args: Arguments, shape: Shape, rng: np.random.Generator) -> Iterator[Array]:
    """The tensor's values, float32, flat and in row-major order, as consecutive blocks of at most 2**20 elements.

    `args` holds every parameter of the signature and passes `problem`. `orthogonal` comes as one block.
    """
    if name == "orthogonal":
        yield _orthogonal(args["gain"], shape, rng)
        return
    fill = _fill(name, args, shape, rng)
    total = prod(shape)
    for first in range(0, total, _BLOCK):
        yield fill(first, min(_BLOCK, total - first))


def _fill(name: str, args: Arguments, shape: Shape, rng: np.random.Generator) -> Fill:
    """How a block is made from its place in the tensor."""
    import numpy as np

    if name in ("zeros", "ones", "constant"):
        value = {"zeros": 0.0, "ones": 1.0}.get(name, args.get("v"))
        return lambda first, count: np.full(count, value, dtype=np.float32)
    if name == "eye":
        return lambda first, count: _eye(np.arange(first, first + count), shape)
    if name == "log_arange":
        start, length = args["start"], shape[-1]
        return lambda first, count: np.log(start + np.arange(first, first + count) % length).astype(np.float32)
    if name == "sinusoids":
        return lambda first, count: _sinusoids(args, shape[1], np.arange(first, first + count))
    if name == "trunc_normal":
        return lambda first, count: _truncated(count, args["a"], args["b"], rng) * np.float32(args["std"])
    if name == "normal":
        return lambda first, count: _without_row(
            rng.standard_normal(count, dtype=np.float32) * np.float32(args["std"]) + np.float32(args["mean"]),
            first,
            shape,
            args["zero_row"],
        )
    if name in ("xavier_normal", "kaiming_normal"):
        std = np.float32(_std(name, args, shape))
        return lambda first, count: rng.standard_normal(count, dtype=np.float32) * std
    low, high = _bounds(name, args, shape)
    return lambda first, count: rng.random(count, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def fans(shape: Shape) -> tuple[int, int]:
    """(fan in, fan out) of a weight [out, in, kernel..], as torch.nn.init counts them."""
    kernel = prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def _std(name: str, args: Arguments, shape: Shape) -> float:
    fan_in, fan_out = fans(shape)
    if name.startswith("xavier"):
        return float(args["gain"]) * math.sqrt(2.0 / (fan_in + fan_out))
    gain = math.sqrt(2.0 / (1 + args["a"] ** 2))  # of a leaky ReLU with slope a
    return gain / math.sqrt(fan_in if args["mode"] == "fan_in" else fan_out)


def _bounds(name: str, args: Arguments, shape: Shape) -> tuple[float, float]:
    if name == "uniform":
        return float(args["a"]), float(args["b"])
    bound = 1 / math.sqrt(args["n"]) if name == "uniform_fan_in" else math.sqrt(3.0) * _std(name, args, shape)
    return -bound, bound


def _without_row(values: Array, first: int, shape: Shape, row: int | None) -> Array:
    """The block with what it holds of one row of the tensor set to zero."""
    if row is not None:
        width = prod(shape[1:])
        start = row % shape[0] * width - first
        values[max(0, start) : max(0, start + width)] = 0.0
    return values


def _truncated(count: int, a: float, b: float, rng: np.random.Generator) -> Array:
    """Standard normal numbers within [a, b]: others are drawn again. Where few normal numbers fall inside, uniform ones
    are accepted in proportion to the density."""
    import numpy as np

    low, high = max(a, -_TAIL), min(b, _TAIL)
    wide = math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)) > 0.6
    peak = max(low, min(0.0, high))
    result = np.empty(count, dtype=np.float32)
    done = 0
    while done < count:
        if wide:
            drawn = rng.standard_normal(count - done, dtype=np.float32)
            drawn = drawn[(drawn >= low) & (drawn <= high)]
        else:
            drawn = low + (high - low) * rng.random(count - done, dtype=np.float32)
            drawn = drawn[np.log1p(-rng.random(drawn.size)) <= (peak**2 - drawn.astype(np.float64) ** 2) / 2]
        result[done : done + drawn.size] = drawn
        done += drawn.size
    return result


def _orthogonal(gain: float, shape: Shape, rng: np.random.Generator) -> Array:
    """A matrix [shape[0], rest] with orthonormal rows or columns, uniformly distributed (Mezzadri, 2007)."""
    import numpy as np

    rows, columns = shape[0], prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diagonal(r))
    values: Array = (gain * (q.T if rows < columns else q)).astype(np.float32).reshape(-1)
    return values


def _eye(places: Any, shape: Shape) -> Array:
    rows, columns = places // shape[1], places % shape[1]
    ones: Array = (rows == columns).astype("float32")
    return ones


def _sinusoids(args: Arguments, dim: int, places: Any) -> Array:
    """Element (p, c) is the sine or cosine of p * base**(-i/(dim/2 - shift)), i the pair that channel c belongs to."""
    import numpy as np

    positions, channels = np.divmod(places, dim)
    half = dim // 2
    if args["layout"] == "interleaved":
        pairs, is_cos = channels // 2, channels % 2 == 1
    else:
        pairs, is_cos = channels % half, (channels >= half) == (args["layout"] == "sin_cos")
    angles = positions * float(args["base"]) ** -(pairs / (half - args["shift"]))
    values: Array = np.where(is_cos, np.cos(angles), np.sin(angles)).astype(np.float32)
    return values


# ---- torch -----------------------------------------------------------------------------------------------------------

HELPERS: Final[Mapping[str, str]] = {
    "sinusoids": '''
def sinusoids(rows: int, dim: int, layout: str, shift: int = 0, base: float = 10000.0):
    """Sines and cosines of p * base**(-i / (dim / 2 - shift)) for each row p."""
    steps = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - shift)
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * base**-steps
    sin, cos = angles.sin().float(), angles.cos().float()
    if layout == "interleaved":
        return torch.stack((sin, cos), dim=-1).flatten(1)
    return torch.cat((sin, cos) if layout == "sin_cos" else (cos, sin), dim=-1)
''',
}
"""Initialiser -> the module-level function that its statement calls, where torch has none."""


def torch(name: str, args: Mapping[str, str], target: str) -> str:
    """The statement (two, one per line, for `zero_row`) that initialises `target`, in `nn.init` where torch has it.

    `args` are Python expressions by parameter name; parameters at their defaults may be left out or be given.
    """
    defaults = SIGNATURES[name]
    given = {key: text for key, text in args.items() if text.replace('"', "'") != repr(defaults[key])}
    if name == "normal":
        return _normal_text(given, target)
    if name == "trunc_normal":
        low, high = (_times(args.get(key, repr(defaults[key])), args["std"]) for key in ("a", "b"))
        return f"nn.init.trunc_normal_({target}, std={args['std']}, a={low}, b={high})"
    if name == "uniform":
        return f"nn.init.uniform_({target}, {args['a']}, {args['b']})"
    if name == "uniform_fan_in":
        bound = f"{_atom(args['n'])}**-0.5"
        return f"nn.init.uniform_({target}, -{bound}, {bound})"
    if name == "constant":
        return f"nn.init.constant_({target}, {args['v']})"
    if name == "log_arange":
        start = args["start"]
        return f"{target}.data.copy_(torch.arange({start}, {_atom(start)} + {target}.shape[-1]).log())"
    options = [f"{key}={given[key]}" for key in defaults if key in given]
    if name == "sinusoids":
        layout = args.get("layout", '"interleaved"')
        options = [option for option in options if not option.startswith("layout=")]
        return f"{target}.data.copy_(sinusoids({', '.join([f'*{target}.shape', layout, *options])}))"
    return f"nn.init.{name}_({', '.join([target, *options])})"


def _normal_text(given: Mapping[str, str], target: str) -> str:
    options = [f"{key}={given[key]}" for key in ("mean", "std") if key in given]
    if given["std"] in ("1", "1.0"):
        options.pop()  # torch's default
    statement = f"nn.init.normal_({', '.join([target, *options])})"
    return f"{statement}\n{target}.data[{given['zero_row']}].zero_()" if "zero_row" in given else statement


def _times(factor: str, std: str) -> str:
    """The product, as one number if both are."""
    try:
        return repr(float(f"{float(factor) * float(std):.12g}"))
    except ValueError:
        sign, factor = ("-", factor[1:]) if factor.startswith("-") else ("", factor)
        return f"{sign}{_atom(factor)} * {_atom(std)}"


def _atom(text: str) -> str:
    """In parentheses unless it binds tighter than any operator."""
    return text if text.replace(".", "").replace("_", "").isalnum() else f"({text})"
