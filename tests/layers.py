"""Which layer may import which. `test_layers.py` holds every source file against these diagrams."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PYTHON_LAYERS: list[set[str]] = [
    {"__init__"},  # collects the public names; nothing below imports it
    {"__main__"},  # `python -m isthmus`
    {"cli", "logging", "testing", "multiprocessing"},  # faces
    {"aio"},  # the same, awaited
    {"_doctor", "_select"},  # waits for several of them
    {"queue", "topic", "service", "table"},  # patterns
    {"lockset"},  # several of the locks below
    {"condition", "rlock"},  # on a mutex
    {"barrier", "event", "rwlock", "semaphore"},
    {"_sync"},  # what these have in common
    {"shm", "posix_mq", "socket", "nats"},  # mechanisms behind the patterns
    # what messages are, and parts of a queue's interface
    {"_arrays", "_dead"},
    # byte streams, which carry messages too: programs in a row, the mechanisms, their ends
    {"_pipeline"},
    {"_stages"},
    {"_fifo_calls"},
    {"fifo", "pipe"},
    {"_fifo_ends", "_pipe_ends"},
    {"_stream_reader", "_stream_writer"},
    {"_stream"},
    {"_codec"},
    {"shared_array"},  # shape and type on a shared memory
    # mechanisms used directly
    {
        "_inspect",
        "_objects",
        "mapped_file",
        "mutex",
        "named_semaphore",
        "shared_memory",
        "signals",
        "sysv",
        "value",
    },
    # parts of those that are memory
    {"_posix_shm", "_range_lock", "_viewing"},
    {"_elements", "_segments"},
    {"_descriptors"},  # reading, writing and waiting without blocking
    {"_stopping"},  # this process was asked to end
    {"_core"},  # binding
    {"_errors"},  # vocabulary
]
"""Modules of `python/isthmus`, top first: an import points down, or to the same module's own parts."""

FACES = {"__main__", "cli", "logging", "testing", "multiprocessing"}
"""These stand outside and use isthmus as any user does: `import isthmus`."""


def python_imports(source: str, module: str) -> list[tuple[int, str]]:
    """(line, first part below `isthmus`) of each import of the package in `source`; "" is isthmus itself.

    `module` is the dotted path of the file below `isthmus` (`"cli._ls"`, `"cli.__init__"`), to resolve
    relative imports. Imports for type checkers only count too: a layer must not even name what is above.
    """
    package = ["isthmus", *module.split(".")[:-1]]
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            if node.module:
                base = [*base, *node.module.split(".")]
            if base == ["isthmus"]:  # `from . import x`: x may be a module or a name of the package
                found += [(node.lineno, f"isthmus.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, ".".join(base)))
    inside = [(line, name.split(".")) for line, name in found if name.split(".")[0] == "isthmus"]
    return [(line, parts[1] if len(parts) > 1 else "") for line, parts in inside]


def python_violations(files: dict[str, str]) -> list[str]:
    """What is wrong in `{dotted module below isthmus: source}`; an empty list when nothing is."""
    level = {name: number for number, names in enumerate(PYTHON_LAYERS) for name in names}
    wrong: list[str] = []
    for module, source in files.items():
        own = module.split(".")[0]
        if own not in level:
            wrong.append(f"{module}: in no layer of tests/surface/layers.py")
            continue
        for line, imported in python_imports(source, module):
            if imported in (own, "") and (imported == own or own in FACES):
                continue
            if imported not in level:
                if own not in FACES:  # a face takes public names: `from isthmus import Queue`
                    wrong.append(f"{module}:{line}: imports isthmus.{imported}, in no layer below it")
            elif level[imported] <= level[own]:
                wrong.append(f"{module}:{line}: imports {imported}, which is not below {own}")
    return wrong


def rust_layers(lib_rs: str) -> list[list[str]]:
    """The layer diagram in the first ```text block of the crate's documentation: module names, top first."""
    block = re.search(r"//! ```text\n(.*?)//! ```", lib_rs, re.DOTALL)
    assert block, "crates/isthmus-core/src/lib.rs has no layer diagram"
    # `//! queue  mutex          structures`: names, then after a wide gap what they are.
    lines = [line.removeprefix("//!").strip() for line in block[1].splitlines()]
    return [re.sub(r"\(.*?\)", "", re.split(r"\s{3,}", line)[0]).split() for line in lines]


_RUST_TEXT = re.compile(
    r"""//[^\n]*|/\*.*?\*/|r\#".*?"\#|'(?:\\.|[^'\\])'|"(?:\\.|[^"\\])*\"""", re.DOTALL | re.VERBOSE
)
_RUST_TESTS = re.compile(r"#\[cfg\((?:all\()?test\b[^\n]*\n\s*(?:pub(?:\([a-z]+\))? )?mod \w+ \{")


def strip_rust(source: str) -> str:
    """`source` with comments, strings and `#[cfg(test)] mod … { }` blanked; line numbers stay."""

    def blank(text: str) -> str:
        return re.sub(r"[^\n]", " ", text)

    source = _RUST_TEXT.sub(lambda match: blank(match[0]), source)
    while test := _RUST_TESTS.search(source):
        depth, end = 1, test.end()
        while depth and end < len(source):
            depth += {"{": 1, "}": -1}.get(source[end], 0)
            end += 1
        source = source[: test.start()] + blank(source[test.start() : end]) + source[end:]
    return source


def rust_imports(source: str) -> list[tuple[int, str]]:
    """(line, first module) of each `crate::module` path in `source`, `use crate::{a, b::c}` included."""
    found: list[tuple[int, str]] = []
    text = strip_rust(source)
    for match in re.finditer(r"\bcrate::(\{|\w+)", text):
        line = text.count("\n", 0, match.start()) + 1
        if match[1] != "{":
            found.append((line, match[1]))
            continue
        depth, start, position = 1, match.end(), match.end()
        while depth:
            character = text[position]
            if character == "{":
                depth += 1
            if character == "}":
                depth -= 1
            if (character == "," and depth == 1) or depth == 0:
                item = text[start:position].strip()
                if item:
                    found.append((line, re.split(r"\W", item)[0]))
                start = position + 1
            position += 1
    return found


def rust_violations(layers: list[list[str]], files: dict[str, str]) -> list[str]:
    """What is wrong in `{path below src: source}` of the core crate; `lib.rs` itself may name everything."""
    level = {name: number for number, names in enumerate(layers) for name in names}
    wrong: list[str] = []
    for path, source in files.items():
        own = Path(path).parts[0].removesuffix(".rs")
        if own == "lib":
            continue
        if own not in level:
            wrong.append(f"{path}: in no layer of the diagram in lib.rs")
            continue
        for line, imported in rust_imports(source):
            if imported == own:
                continue
            if imported not in level:
                wrong.append(f"{path}:{line}: uses crate::{imported}, in no layer of the diagram in lib.rs")
            elif level[imported] < level[own]:
                wrong.append(f"{path}:{line}: uses crate::{imported}, which is above {own}")
    return wrong


def tree(root: Path, pattern: str) -> dict[str, str]:
    """`{path below root: text}` of every file that matches."""
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob(pattern))}
