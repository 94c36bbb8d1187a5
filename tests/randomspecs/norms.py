"""Recipes of normalisations with weights."""

from __future__ import annotations

import math

from specc.types import DType, TensorType

from .body import Body
from .bounds import ROUND, Bound, computed
from .layers import image
from .recipes import recipe
from .values import Value


def steepness(body: Body, x: Value, count: int) -> tuple[dict[str, float], float]:
    """eps, and by how much the norm may amplify an error: 1/sqrt(eps) where the elements could all be equal."""
    if x.bound.varied and count >= 4:
        return ({} if body.chance(2) else {"eps": 1e-5}), 8.0
    return {"eps": 0.25}, 2.0


def normed(x: Value, amplified: float, count: int) -> Bound:
    edge = 1.5 * math.sqrt(max(count, 2)) + 0.5
    return computed(-edge, edge, 3 * amplified * (x.bound.err + x.bound.mag * ROUND), varied=x.bound.varied)


@recipe("layer_norm", "rms_norm")
def norm_of_axis(body: Body, name: str) -> None:
    axis = 1 if name == "layer_norm" and body.chance(4) else -1
    x = body.find(lambda v: v.dtype is DType.COMPUTE and v.type.rank > max(axis, 0) and v.shape[axis].value is not None)
    size = x.shape[axis]
    eps, amplified = steepness(body, x, size.value or 1)
    bound = normed(x, amplified, size.value or 1)
    w = None if body.chance(4) else body.parameter((size,), positive=True)
    if name == "rms_norm":
        options = {"offset": 1.0} if w is not None and body.chance(3) else {}
        body.apply(name, x, w, bound=bound.scaled(1 + len(options)), **eps, **options)
        return
    b = body.parameter((size,)) if body.chance(2) else None
    body.apply(name, x, w, b, bound=bound, **eps, **({"axis": 1} if axis == 1 else {}))


@recipe("group_norm", "instance_norm", "batch_norm")
def norm_of_channels(body: Body, name: str) -> None:
    x = image(body, body.choose(1, 2))
    channels = x.shape[1]
    bare = name != "batch_norm" and body.chance(4)
    w = None if bare else body.parameter((channels,), positive=True)
    b = None if bare else body.parameter((channels,))
    bound = normed(x, 2.0, 64)
    if name == "batch_norm" and w is not None:
        names = [body.file.name(s) for s in ("mean", "var", "count")]
        body.members.append(f"buffer {names[0]}: Tensor[{channels}] = zeros()")
        body.members.append(f"buffer {names[1]}: Tensor[{channels}] = ones()")
        body.members.append(f"buffer {names[2]}: Int[] = zeros()")
        running = [Value(names[0], w.type, Bound(-0.5, 0.5)), Value(names[1], w.type, Bound(0.5, 1.5))]
        seen = Value(names[2], TensorType(DType.I64, ()), Bound(0, 0))
        edge = 3 * (x.bound.mag + 1)
        body.apply(name, x, w, b, *running, seen, bound=computed(-edge, edge, 3 * x.bound.err))
    elif name == "group_norm":
        groups = body.choose(*[k for k in (1, 2, 3, 4) if (channels.value or 1) % k == 0])
        body.apply(name, x, w, b, bound=bound, groups=groups, eps=0.25)
    else:
        body.apply(name, x, w, b, bound=bound, eps=0.25)
