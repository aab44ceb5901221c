"""One mechanism of the operating system: one module, one test file, one page, one example, of one stem."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# `isthmus.pipeline` is the function, so its module has an underscore.
MODULES = {
    "fifo": "fifo.py",
    "mapped_file": "mapped_file.py",
    "named_semaphore": "named_semaphore.py",
    "pipe": "pipe.py",
    "pipeline": "_pipeline.py",
    "posix_mq": "posix_mq.py",
    "shared_array": "shared_array.py",
    "shared_memory": "shared_memory.py",
    "signals": "signals/__init__.py",
    "sysv": "sysv.py",
}


@pytest.mark.parametrize("stem", MODULES)
def test_it_has_all_four(stem: str) -> None:
    files = [
        ROOT / "python" / "isthmus" / MODULES[stem],
        ROOT / "tests" / "unit" / f"test_{stem}.py",
        ROOT / "docs" / f"{stem}.md",
        ROOT / "examples" / f"{stem}.py",
    ]
    assert [path for path in files if not path.is_file()] == []


@pytest.mark.parametrize("stem", MODULES)
def test_its_page_is_in_the_contents_and_leads_to_its_example(stem: str) -> None:
    assert f": {stem}.md\n" in (ROOT / "mkdocs.yml").read_text()
    found = re.search(r"\[examples\]\(examples\.md#([\w-]+)\)", (ROOT / "docs" / f"{stem}.md").read_text())
    assert found
    sections = (ROOT / "docs" / "examples.md").read_text().split("\n## ")
    anchors = {re.sub(r"[^\w]+", "-", text.partition("\n")[0].lower()).strip("-"): text for text in sections}
    assert f'--8<-- "examples/{stem}.py"' in anchors[found[1]]
