from pathlib import Path

import pytest

# Those of the common tests; they select nothing here.
MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "order",
    "torch_compile_test",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' common tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # Collecting downloads their source: a run without slow tests shall not.
    return True if "not slow" in config.getoption("markexpr") else None
