#!/usr/bin/env bash
# Build the wheel, install it beside this environment's libraries, and use its commands from an empty folder.
#   scripts/try_wheel.sh [python]      python: of the environment that has VRX's dependencies; default .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=$(realpath -s "${1:-.venv/bin/python}")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

mkdir "$WORK/source" "$WORK/empty"
cp -R vrx conf pyproject.toml README.md LICENSE "$WORK/source"      # built there: nothing is left here
(cd "$WORK/source" && "$PYTHON" -c "from setuptools.build_meta import build_wheel; build_wheel('$WORK')" > "$WORK/log" 2>&1) ||
    { cat "$WORK/log"; exit 1; }

"$PYTHON" -m venv --without-pip "$WORK/venv"
SITE=$("$WORK/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$PYTHON" -m pip --python "$WORK/venv/bin/python" install --quiet --no-deps --no-index "$WORK"/vrx-*.whl
# the libraries, but no editable VRX: a plain path runs no .pth file of that folder
"$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$SITE/libraries.pth"

cd "$WORK/empty"
"$WORK/venv/bin/python" -c "import vrx; assert vrx.__file__.startswith('$WORK/venv'), vrx.__file__; print('installed:', vrx.__file__)"
for command in vrx-train vrx-explain vrx-diagnose; do
    "$WORK/venv/bin/$command" --help > "$WORK/log" 2>&1 || { cat "$WORK/log"; exit 1; }
    echo "$command --help: $(wc -l < "$WORK/log") lines"
done
"$WORK/venv/bin/vrx-train" --cfg job > "$WORK/log"
echo "vrx-train --cfg job: $(wc -l < "$WORK/log") lines"
"$WORK/venv/bin/vrx-train" debug=fast classifier.fit.epochs=1 logger=none
RUN=$(ls -d runs/toy_vehicles/*/)
"$WORK/venv/bin/vrx-explain" run="$RUN" images="$(find data/toy_vehicles -name '*.png' -o -name '*.jpg' | head -1)"
echo "The wheel works from an empty folder."
