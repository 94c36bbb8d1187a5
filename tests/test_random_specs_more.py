"""The other half of CI's thousand random specs: two files run beside each other."""

from __future__ import annotations

import pytest
from randomspecs.running import share
from test_random_specs import SPECS, chunk

CHUNKS = range(4, 8)


@pytest.mark.slow
@pytest.mark.parametrize("number", CHUNKS)
def test_programs_agree(number: int) -> None:
    assert chunk(number).count >= SPECS


@pytest.mark.slow
@pytest.mark.parametrize("number", CHUNKS)
def test_every_operator_occurs(number: int) -> None:
    assert set(share(number)) - chunk(number).ops.keys() == set()
