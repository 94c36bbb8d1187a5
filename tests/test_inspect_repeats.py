"""Explanations that pass through many equal blocks tell one of them."""

from __future__ import annotations

from click.testing import CliRunner

from specc.inspect.repeats import folded
from specc_runtime.cli import cli


def test_rows_that_repeat_are_folded() -> None:
    rows = [(f"h.{i}", part) for i in (2, 1, 0) for part in ("mlp", "attn")]
    assert list(folded(rows)) == [([("h.{2..0}", "mlp"), ("h.{2..0}", "attn")], 3)]
    assert list(folded([("a", "h.1"), *rows, ("b", "h.0")])) == [
        ([("a", "h.1")], 1),
        ([("h.{2..0}", "mlp"), ("h.{2..0}", "attn")], 3),
        ([("b", "h.0")], 1),
    ]
    assert list(folded([("x", ""), ("x", ""), ("x", "")])) == [([("x", "")], 3)]
    assert list(folded([("axis 0", ""), ("axis 1", "")])) == [([("axis 0", "")], 1), ([("axis 1", "")], 1)]
    assert list(folded([])) == []


def test_an_explanation_is_as_long_for_many_blocks_as_for_few() -> None:
    text = CliRunner().invoke(cli, ["inspect", "gpt2", "--explain", "logits"]).output
    assert "h.{11..0} (GPT2Block)" in text and "(these 4 steps 12 times)" in text
    longer = CliRunner().invoke(cli, ["inspect", "gpt2", "--set", "layers=40", "--explain", "logits"]).output
    assert len(text.splitlines()) == len(longer.splitlines())
