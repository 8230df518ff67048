#!/usr/bin/env bash
# Run the suite on the oldest versions that the bounds of pyproject.toml allow (some 7 GB, in a folder of its own).
#   scripts/oldest_versions.sh [--resolve] [pytest options]      --resolve: only list the versions, install nothing
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3.11}
VENV=${OLDEST_VENV:-build/oldest}

"$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet uv
if [ "${1:-}" = --resolve ]; then
    exec "$VENV/bin/uv" pip compile --quiet --python "$VENV/bin/python" --resolution lowest-direct --no-annotate --extra dev \
        pyproject.toml
fi
"$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --resolution lowest-direct --editable '.[dev]'
"$VENV/bin/python" -m pytest -W default "$@"   # old libraries warn of what newer ones changed: no errors here
