"""Options and fixtures that several test files share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from specc_runtime.threads import yielding

yielding()  # several workers share the processors
SHARED = [path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith(("test_", "conftest"))]
pytest.register_assert_rewrite(*SHARED)  # so that what they assert says what it found, as in a test

collect_ignore = ["errors"]  # specs that are wrong, with `test` sections that specc's own plugin would run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity", action="store_true", help="end with a table of the comparisons with transformers")
    parser.addoption("--update-golden", action="store_true", help="write the golden files from what the code gives now")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --update-golden only tests that compare with a golden file run."""
    if config.getoption("--update-golden"):
        others = [item for item in items if "golden" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare a text with a golden file, or write the file when the run was started with --update-golden."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"{path} is missing: run pytest --update-golden and read what it writes"
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small models, whose threads only wait for each other, the longer the busier the machine is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of the test's own, and no way to the hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache/datasets"))


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """A folder with `training_data.SENTENCES` as rows of a table."""
    from training_data import write_sentences

    write_sentences(tmp_path)
    return tmp_path


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder with short sounds of two classes."""
    from training_data import write_sounds

    write_sounds(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def parity_property(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test compared with transformers goes into its report, which a worker hands to the process that prints."""
    yield
    if request.config.getoption("--parity") and "parity_table" in sys.modules:
        from parity_table import taken

        request.node.user_properties.append(taken())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--parity"):
        from parity_table import table

        reports = [r for found in terminalreporter.stats.values() for r in found if isinstance(r, pytest.TestReport)]
        terminalreporter.section("parity: largest |specc - reference| / max(1, largest |reference|)")
        for line in table(reports):
            terminalreporter.write_line(line)
