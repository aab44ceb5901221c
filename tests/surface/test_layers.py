"""Imports point downwards (docs/design/layers.md), in Python and in the Rust core; each check can fail."""

import re
from pathlib import Path

import pytest

from layers import python_violations, rust_imports, rust_layers, rust_violations, strip_rust, tree

ROOT = Path(__file__).parents[2]
CORE = ROOT / "crates" / "isthmus-core" / "src"


def dotted(files: dict[str, str]) -> dict[str, str]:
    return {path.removesuffix(".py").replace("/", "."): text for path, text in files.items()}


def test_python_imports_point_down() -> None:
    files = dotted(tree(ROOT / "python" / "isthmus", "*.py"))
    assert {"__init__", "queue", "_errors"} <= files.keys()
    assert python_violations(files) == []


def test_rust_modules_use_only_what_is_below_them() -> None:
    files = tree(CORE, "*.rs")
    assert {"lib.rs", "error.rs"} <= files.keys()
    assert rust_violations(rust_layers(files["lib.rs"]), files) == []


def test_the_diagram_of_the_core_names_what_exists() -> None:
    """A module in no line of the diagram, or a name without a module, makes the diagram a lie."""
    declared = {path.removesuffix(".rs").split("/")[0] for path in tree(CORE, "*.rs")} - {"lib"}
    drawn = {name for layer in rust_layers((CORE / "lib.rs").read_text()) for name in layer}
    assert declared == drawn


def test_the_core_knows_no_python_and_the_binding_makes_no_system_calls() -> None:
    assert "pyo3" not in (ROOT / "crates/isthmus-core/Cargo.toml").read_text()
    binding = (ROOT / "crates/isthmus-python/Cargo.toml").read_text()
    assert "libc" not in binding
    assert "rustix" not in binding


def system_calls(source: str) -> list[str]:
    """Calls of libc functions, and what would hide them; constants such as `libc::ENOENT` are none."""
    return re.findall(r"libc::[a-z_0-9]+\s*\(|use libc\b|extern \"C\"", strip_rust(source))


def test_only_sys_makes_system_calls() -> None:
    outside = {
        path: system_calls(text) for path, text in tree(CORE, "*.rs").items() if not path.startswith("sys")
    }
    assert {path: calls for path, calls in outside.items() if calls} == {}
    assert system_calls("unsafe { libc::close(fd) }") != []
    assert system_calls("use libc::close;") != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_errors", "from .queue import Queue"),
        ("mutex", "import isthmus.queue"),
        ("mutex", "from isthmus import queue"),
        ("queue", "import isthmus"),
        ("queue", "def late():\n    from .cli import main"),
        ("queue", "from . import cli"),
        ("nowhere", "x = 1"),
        ("queue", "from . import nowhere"),
        ("_core_helpers", "from . import _core"),
    ],
)
def test_a_made_up_python_violation_is_found(module: str, source: str) -> None:
    assert python_violations({module: source}) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("queue", "from . import _core\nfrom ._errors import Full\nimport os, typing"),
        ("cli.__init__", "from . import _ls\nfrom isthmus import Queue, objects\nimport isthmus"),
        ("cli._ls", "from isthmus.cli._text import row\nfrom ._text import row\nfrom .. import queue"),
        ("__init__", "from .queue import Queue"),
    ],
)
def test_an_honest_python_module_passes(module: str, source: str) -> None:
    assert python_violations({module: source}) == []


LAYERS = [["queue"], ["lock", "wait"], ["sys"], ["error"]]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("error.rs", "use crate::sys::file;"),
        ("sys/file.rs", "use crate::{error::Error, lock};"),
        ("sys/mod.rs", "use crate::{\n    error::{self, Error},\n    queue::{Queue, Stats},\n};"),
        ("lock.rs", "fn f() { crate::queue::g(); }"),
        ("lock.rs", "use crate::nowhere;"),
        ("nowhere.rs", ""),
    ],
)
def test_a_made_up_rust_violation_is_found(path: str, source: str) -> None:
    assert rust_violations(LAYERS, {path: source}) != []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("queue/ring.rs", "use crate::{lock::Lock, queue::layout, error::Result};"),
        ("lock.rs", 'use crate::wait; // crate::queue is above\nconst T: &str = "crate::queue";'),
        ("sys/mod.rs", "#[cfg(test)]\nmod tests {\n  use crate::queue;\n  fn f() {}\n}\nuse crate::error;"),
        ("lib.rs", "use crate::queue;"),
    ],
)
def test_an_honest_rust_module_passes(path: str, source: str) -> None:
    assert rust_violations(LAYERS, {path: source}) == []


def test_nested_uses_are_read_to_their_end() -> None:
    source = "use crate::{a::{b, c::{d, e}}, f, g::*};\nlet quote = '\"'; use crate::h;"
    assert rust_imports(source) == [(1, "a"), (1, "f"), (1, "g"), (2, "h")]
