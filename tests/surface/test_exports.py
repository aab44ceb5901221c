"""What `import isthmus` gives: every public name once, typed, and nothing heavy behind it."""

import pickle
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import isthmus
from support import run_python

HEAVY = {
    "argparse", "asyncio", "dataclasses", "inspect", "json", "logging", "multiprocessing", "numpy", "pydoc",
    "rich", "socket", "subprocess", "tempfile", "typer", "unittest", "urllib",
}  # fmt: skip


def test_every_public_name_is_there_and_sorted() -> None:
    assert isthmus.__all__ == sorted(isthmus.__all__)
    assert len(isthmus.__all__) == len(set(isthmus.__all__))
    assert [name for name in isthmus.__all__ if not hasattr(isthmus, name)] == []


def test_nothing_public_is_left_out() -> None:
    # One mechanism, one module: importable, and not hidden.
    modules = {path.stem for path in Path(isthmus.__path__[0]).iterdir()}
    visible = {name for name in dir(isthmus) if not name.startswith("_")}
    assert visible - modules == set(isthmus.__all__)


@pytest.mark.parametrize("name", isthmus.__all__)
def test_a_public_name_says_it_comes_from_isthmus_and_pickles_by_it(name: str) -> None:
    value = getattr(isthmus, name)
    assert value.__module__ == "isthmus"
    assert value.__qualname__ == name
    assert pickle.loads(pickle.dumps(value)) is value


def test_the_type_checker_sees_the_package_as_typed() -> None:
    assert resources.files(isthmus).joinpath("py.typed").is_file()
    assert resources.files(isthmus).joinpath("_core.pyi").is_file()


def test_the_version_is_that_of_the_distribution() -> None:
    assert isthmus.__version__ == metadata.version("isthmus")


def test_only_msgspec_is_required_to_run() -> None:
    required = [text for text in metadata.requires("isthmus") or [] if "extra ==" not in text]
    assert [text.split(">=")[0] for text in required] == ["msgspec"]


def test_import_brings_in_nothing_heavy() -> None:
    out = run_python("import isthmus, sys; print(*sys.modules)")
    bare = run_python("import sys; print(*sys.modules)")  # site packages may bring in things by themselves
    brought = set(out.split()) - set(bare.split())
    assert brought & HEAVY == set()
    assert {name.split(".")[0] for name in brought} - set(sys.stdlib_module_names) == {"isthmus"}
    assert "isthmus.cli" not in brought


def test_off_linux_the_import_says_why() -> None:
    out = run_python(
        """
        import sys
        sys.platform = "darwin"
        try:
            import isthmus
        except ImportError as error:
            print(error)
        """
    )
    assert "Linux only" in out
    assert "darwin" in out


def test_without_the_native_module_the_import_says_what_to_do() -> None:
    out = run_python(
        """
        import sys
        sys.modules["isthmus._core"] = None
        try:
            import isthmus
        except ImportError as error:
            print(error)
        """
    )
    assert "pip install" in out
