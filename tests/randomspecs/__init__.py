"""Random valid specs: torch and onnxruntime must agree on each.

`strategy.specs()` writes a spec's text with a typed generator, so every one is valid; `checking.examine` builds and
runs it. `python -m tests.randomspecs --count 10000` does so at length. What fails shrinks to a small spec in `found/`,
which the ordinary tests run from then on.
"""
