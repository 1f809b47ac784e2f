#!/bin/sh
# Sees that there is a Chromium for the browser test. Called by make.
set -eu
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing Debian's Chromium for the browser test (about a minute)."
  apt-get update -qq >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium </dev/null >/dev/null
else
  echo "Fetching Playwright's Chromium for the browser test (about a minute)."
  .venv/bin/python -m playwright install chromium
fi
