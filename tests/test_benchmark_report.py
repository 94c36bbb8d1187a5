"""The tables of the benchmarks and the report that `make report` writes: figures go in, and nothing else comes out."""

from __future__ import annotations

from benchmarks.measuring import Cell, tables
from benchmarks.report import report


def test_a_table_shows_what_is_missing_and_why() -> None:
    cells = [
        Cell("decode", "specc", "after 128", 11.4),
        Cell("decode", "peer", "after 128", "not installed"),
        Cell("decode", "specc", "after 1000", 0.01234),
        Cell("load", "specc", "s", 123.4),
    ]
    found = tables(cells)
    assert found["decode"].splitlines() == [
        "|       |     after 128 | after 1000 |",
        "| ----- | ------------: | ---------: |",
        "| specc |          11.4 |     0.0123 |",
        "| peer  | not installed |          - |",
    ]
    assert "123" in found["load"]


def test_the_report_says_what_was_missed_where_and_when() -> None:
    goals = [["decode", 0.7, "<= 0.75 x", True, "x"], ["nodes", 2.5, "<= 0.5 x", False, "x"]]
    machine = {"processor": "P", "cores": 2, "flags": ["avx2"], "memory_gib": 24, "system": "Linux", "python": "3.11"}
    run = {
        "datetime": "2026-01-02T03:04:05",
        "machine_info": machine | {"packages": {"torch": "2"}},
        "benchmarks": [{"extra_info": {"cells": [["T", "specc", "s", 1.0]], "goals": goals}}, {"extra_info": {}}],
    }
    text = report(run, "## Why\n")
    assert "2026-01-02" in text and "P, 2 cores (avx2), 24 GiB" in text
    assert "| decode | 0.7 x | <= 0.75 x | met |" in text
    assert "| nodes | 2.5 x | <= 0.5 x | MISSED |" in text
    assert text.endswith("## Why\n")
