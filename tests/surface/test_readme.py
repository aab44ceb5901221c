"""The examples of the README and of the docs run as they stand."""

import re
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from support import run_python

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples() -> list[ParameterSet]:
    """Every ```python block; those of one page that begin with "# continued" go on from the one before."""
    found = []
    for page in PAGES:
        blocks: list[str] = []
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            if block.startswith("# continued"):
                blocks[-1] += block
            else:
                blocks.append(block)
        name = str(page.relative_to(ROOT))
        found += [pytest.param(block, id=f"{name}-{number}") for number, block in enumerate(blocks, 1)]
    return found


@pytest.mark.parametrize("code", examples())
def test_the_example_runs(code: str) -> None:
    run_python(code)


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "pip install '.[cli]' && isthmus demo" in text
    assert "pip install '.[test]' && pytest" in text


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_ci_runs_the_readmes_test_command_word_for_word() -> None:
    assert "    pip install '.[test]' && pytest\n" in (ROOT / ".ci" / "run").read_text()
