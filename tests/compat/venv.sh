#!/usr/bin/env bash
# Makes the Python environment of the compatibility tests and prints the path of its python. Idempotent; about 20 s once.
#
#   tests/compat/venv.sh          in target/compat-venv of this repository, or in $TIDELOG_COMPAT_VENV
#
# What it holds is pinned in requirements.txt; a change there makes it anew. PYTHON= names a Python (3.10 or later).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
venv=${TIDELOG_COMPAT_VENV:-$repository/target/compat-venv}

mkdir -p "$(dirname "$venv")"
(
    # Parallel callers make it once. Without flock (not Linux) do not run two at the same time.
    ! command -v flock >/dev/null || flock 9
    cmp -s "$here/requirements.txt" "$venv/requirements.txt" && exit
    python=$("$repository/tests/services/install.sh" --find-python 10)
    echo "compat: making $venv with $python" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt" >&2
    # Last: this copy says that all went well.
    cp "$here/requirements.txt" "$venv/requirements.txt"
) 9>"$venv.lock"
echo "$venv/bin/python"
