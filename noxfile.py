"""Every chore of the project: `pip install nox`, then `nox -l` lists them and `nox -s check test` runs some.

`nox` alone runs what a change must pass before it is proposed. `.ci/run` runs the same sessions.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
EXTRAS: dict[str, list[str]] = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]

READERS = [
    "ruff check",
    "ruff format --check",
    "mypy",
    "cargo fmt --all --check",
    "cargo clippy --workspace --all-targets --quiet -- -D warnings",
    "cargo doc --workspace --no-deps --quiet --document-private-items",
]
"""What reads the sources without running them; all of them run, whichever fails."""

# Optimised like a release but with assertions, and without the slow link (Cargo.toml).
PROFILE = "checked"

nox.options.sessions = ["check", "test", "rust", "loom", "wheel"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = False


def requirements(*extras: str) -> list[str]:
    """What the extras ask for, without isthmus itself: for sessions that need no build."""
    return [line for extra in extras for line in EXTRAS[extra] if not line.startswith("isthmus")]


@nox.session(venv_backend="none")
def setup(session: nox.Session) -> None:
    """A virtual environment .venv for working on the project, isthmus in it editable."""
    session.run(sys.executable, "-m", "venv", ".venv")
    session.run(".venv/bin/python", "-m", "pip", "install", "--quiet", "--editable", ".[dev]")
    session.log("now: . .venv/bin/activate; after a change in Rust: maturin develop --release")


@nox.session
def check(session: nox.Session) -> None:
    """Everything that reads the sources without running them."""
    session.install("--quiet", "nox", *requirements("cli", "test"))
    failed = []
    for command in READERS:
        try:
            session.run(*command.split(), env={"RUSTDOCFLAGS": "-D warnings"})
        except nox.command.CommandFailed:
            failed.append(command)
    if failed:
        session.error("; ".join(failed))


@nox.session
def test(session: nox.Session) -> None:
    """The Python tests, on isthmus built as a user builds it. Arguments go to pytest."""
    session.install("--quiet", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session(venv_backend="none")
def rust(session: nox.Session) -> None:
    """The Rust tests; each in its own process where cargo-nextest is installed."""
    if shutil.which("cargo-nextest"):
        session.run(
            "cargo", "nextest", "run", "-p", "isthmus-core", "--cargo-profile", PROFILE, "--no-fail-fast",
            *session.posargs,
        )  # fmt: skip
        session.run("cargo", "test", "-p", "isthmus-core", "--profile", PROFILE, "--doc")
    else:
        session.run(
            "cargo", "test", "-p", "isthmus-core", "--profile", PROFILE, "--no-fail-fast", *session.posargs
        )


@nox.session
def crash(session: nox.Session) -> None:
    """Only what kills: the sweep over every shared store, and real processes killed at random."""
    session.run("cargo", "test", "-p", "isthmus-core", "--profile", PROFILE, "sweep")
    session.install("--quiet", ".[test]")
    session.run("pytest", "tests/crash", *session.posargs)


@nox.session(venv_backend="none")
def loom(session: nox.Session) -> None:
    """The models of every interleaving; loom replaces the atomics, hence a target directory of its own."""
    environment = {
        "RUSTFLAGS": f"{os.environ.get('RUSTFLAGS', '')} --cfg loom".strip(),
        "CARGO_TARGET_DIR": str(ROOT / "target" / "loom"),
        "LOOM_MAX_PREEMPTIONS": os.environ.get("LOOM_MAX_PREEMPTIONS", "3"),
    }
    session.run(
        "cargo", "test", "-p", "isthmus-core", "--profile", PROFILE, "--lib", "loom_", *session.posargs,
        env=environment,
    )  # fmt: skip


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Hostile memory: a million cases, then fewer under AddressSanitizer, which any stable compiler has."""
    command = ["cargo", "test", "-p", "isthmus-core", "--profile", PROFILE, "--test", "fuzz"]
    shown = ["--", "--nocapture", "--test-threads=1", *session.posargs]
    cases = os.environ.get("ISTHMUS_FUZZ_CASES", "60000")
    session.run(*command, *shown, env={"ISTHMUS_FUZZ_CASES": cases})
    # With a target, flags are for the tests alone and not for what builds them.
    host = session.run("rustc", "--print", "host-tuple", silent=True, log=False)
    environment = {
        "RUSTC_BOOTSTRAP": "1",
        "RUSTFLAGS": "-Zsanitizer=address",
        "CARGO_TARGET_DIR": str(ROOT / "target" / "sanitized"),
        "ISTHMUS_FUZZ_CASES": str(int(cases) // 3),
    }
    session.run(*command, "--target", str(host).strip(), *shown, env=environment)


@nox.session
def bench(session: nox.Session) -> None:
    """Measures isthmus against its rivals; see docs/benchmarks.md. Arguments go to benches.compare."""
    session.install("--quiet", ".[bench]")
    session.run("python", "-m", "benches.compare", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as pages in site/; a broken link fails."""
    session.install("--quiet", *requirements("docs"))
    session.run(
        "mkdocs", "build", "--strict", "--quiet", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"}
    )  # fmt: skip


@nox.session
def wheel(session: nox.Session) -> None:
    """Builds the wheel and proves that it installs and runs where there is no Rust."""
    session.install("--quiet", *[line for line in EXTRAS["dev"] if line.startswith("maturin")])
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("maturin", "build", "--release", "--locked", "--quiet", "--out", "dist")
    (built,) = (ROOT / "dist").glob("isthmus-*.whl")
    assert "-abi3-" in built.name, f"{built.name} is for one Python version only"
    session.run(str(ROOT / "tests" / "surface" / "wheel.sh"), str(built), sys.executable, external=True)
