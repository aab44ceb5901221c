"""The stub of the native module says what was built."""

import subprocess
import sys


def test_the_stub_agrees_with_the_native_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "isthmus._core"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
