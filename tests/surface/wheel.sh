#!/bin/bash
# Installs a built wheel in a fresh virtual environment where no Rust tool is found, and uses it.
#   tests/surface/wheel.sh WHEEL [PYTHON]
set -euo pipefail

wheel=$(realpath "$1")
python=${2:-python3}
place=$(mktemp -d)
namespace=$(mktemp -d -p /dev/shm isthmus-wheel-XXXXXX)
trap 'rm -rf "$place" "$namespace"' EXIT

"$python" -m venv "$place/venv"
# PATH holds this environment and the few tools of this script, so no Rust, wherever it is installed.
mkdir "$place/bin"
for tool in basename rm; do
    ln -s "$(command -v "$tool")" "$place/bin/$tool"
done
export PATH="$place/venv/bin:$place/bin" ISTHMUS_NAMESPACE="$namespace"
for tool in cargo rustc maturin; do
    if command -v "$tool" >/dev/null; then
        echo "wheel.sh: $tool is on PATH; this proves nothing" >&2
        exit 2
    fi
done
cd "$place"

pip install --quiet "$wheel"                  # the package and what it needs, nothing of its extras
python -W error - <<'PYTHON'
import isthmus

with isthmus.Queue("wheel", type=bytes, capacity=1 << 20) as queue:
    queue.put(b"from the wheel")
    assert queue.get(timeout=5) == b"from the wheel"
    with isthmus.Mutex("wheel-lock"):
        pass
assert isthmus.objects() == [], isthmus.objects()
PYTHON

pip install --quiet "${wheel}[cli]"
isthmus --help >/dev/null
isthmus ls >/dev/null
echo "wheel.sh: $(basename "$wheel") installs and runs without Rust"
