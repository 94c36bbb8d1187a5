"""The choice of a token: logits are processed as transformers does it, and drawn from by their probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from specc.diagnostics import Diagnostic, Rejected
from specc_runtime import Sampling
from specc_runtime.sampling import Sampler, nucleus, process

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def found(call: Callable[..., Any], *given: Any, **named: Any) -> Diagnostic:
    """What a call is refused with."""
    with pytest.raises(Rejected) as refused:
        call(*given, **named)
    [diagnostic] = refused.value.diagnostics
    return diagnostic


@pytest.mark.parametrize(
    "settings",
    [
        Sampling(temperature=0.7),
        Sampling(top_k=5),
        Sampling(top_k=500),
        Sampling(top_p=0.8),
        Sampling(top_p=0.01),
        Sampling(temperature=1.0, repetition_penalty=1.3),
        Sampling(temperature=1.4, top_k=20, top_p=0.9, repetition_penalty=0.8),
    ],
    ids=str,
)
def test_logits_are_processed_as_transformers_does(settings: Sampling) -> None:
    """The same values, bit by bit but for the last of a division, and the same tokens left over."""
    processors = transformers.LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        processors.append(transformers.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.temperature is not None and settings.temperature != 1.0:
        processors.append(transformers.TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        processors.append(transformers.TopKLogitsWarper(settings.top_k))
    if settings.top_p is not None:
        processors.append(transformers.TopPLogitsWarper(settings.top_p))
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = (rng.standard_normal(100) * 3).astype(np.float32)
        if settings.top_p is None:
            logits[:4] = logits[4]  # which of equal ones are in a nucleus is up to torch's sort
        text = rng.integers(0, 100, 30)
        expected = processors(torch.from_numpy(text)[None], torch.from_numpy(logits)[None].clone())[0].numpy()
        np.testing.assert_allclose(process(logits, text.tolist(), settings), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("share", [0.2, 0.95])
def test_nuclei_of_large_vocabularies(scale: float, share: float) -> None:
    """Tokens at the edge of one are told apart by the rounding of a sum; there are few."""
    logits = (np.random.default_rng(1).standard_normal(50_000) * scale).astype(np.float32)
    expected = transformers.TopPLogitsWarper(share)(None, torch.from_numpy(logits)[None])[0].numpy()
    given = nucleus(logits, share)
    assert int((np.isfinite(given) != np.isfinite(expected)).sum()) <= 1 + 1e-4 * np.isfinite(expected).sum()
    assert (given[np.isfinite(given)] == logits[np.isfinite(given)]).all()


def test_logits_that_are_no_numbers() -> None:
    for wrong in (np.nan, np.inf):
        refused = found(process, np.array([1.0, wrong, 2.0], np.float32), [], Sampling())
        assert refused.code == "B660" and f"the largest logit of the model is {wrong}" in refused.message


def test_draws_follow_the_probabilities() -> None:
    sampler = Sampler(Sampling(temperature=1.0), 0, 3)
    logits = np.log(np.array([0.5, 0.25, 0.25, 0.0], np.float32) + np.float32(1e-30))
    counts = np.bincount([sampler.choose(logits, []) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.25, 0.0], atol=0.03)


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"temperature": -1.0}, "temperature is -1.0: expected a number of at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -3}, "top-k is -3"),
        ({"top_p": 0.0}, "top-p is 0.0: expected a number above 0, at most 1"),
        ({"top_p": 1.5}, "top-p is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition-penalty is 0.0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"top_k": 2.0}, "top-k is 2.0: expected an int"),
        ({"temperature": "hot"}, "temperature is hot"),
        ({"repetition_penalty": None}, "repetition-penalty is None"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], shown: str) -> None:
    refused = found(Sampling, **settings)
    assert refused.code == "G707" and refused.message.startswith(shown)
