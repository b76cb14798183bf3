"""The code in docs/, run in memory and on RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, Example, blocks, examples, run

PAGES = sorted(page for page in (ROOT / "docs").rglob("*.rst") if "_build" not in page.parts)
WITH_CODE = [page for page in PAGES if examples(page)]


def name(page: Path) -> str:
    return page.relative_to(ROOT / "docs").as_posix()


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_examples_of_a_page_do_what_they_say(
    page: Path, broker: str, settings_py: Callable[[Example, Mapping[str, Any]], None]
) -> None:
    listed = examples(page)

    done = run(listed, after=settings_py)

    assert done == listed
    assert len(listed) == page.read_text().count(".. code-block:: python")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_output_in_a_page_follows_its_code(page: Path) -> None:
    languages = [block.language for block in blocks(page.read_text())]

    outputs = sum(bool(example.output) for example in examples(page))

    assert languages.count("text") == outputs
    assert set(languages) <= {"python", "text", "console", "toml", "xml", "none"}


def test_every_guide_has_code() -> None:
    guides = {page.name for page in (ROOT / "docs" / "guides").glob("*.rst")}

    assert guides <= {page.name for page in WITH_CODE}
    assert "getting_started.rst" in {page.name for page in WITH_CODE}
