#!/bin/sh
# Makes .venv with the first Python >= 3.11 of the PATH, and installs visavis[$1] into it. Called by make.
set -eu
fail() { echo "$*" >&2; exit 1; }

if [ ! -x .venv/bin/python ]; then
  for name in python3.13 python3.12 python3.11 python3 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$name; break; fi
  done
  [ -n "${python:-}" ] ||
    fail "visavis needs Python 3.11 or newer, and there is none on the PATH (Debian, Ubuntu: apt-get install python3-venv, on Ubuntu 22.04 python3.11-venv; macOS: brew install python@3.13)."
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments (Debian, Ubuntu: apt-get install python$version-venv)."
  "$python" -m venv .venv
  # `visavis models pull` needs a pip that looks a package up without downloading it: 23.3.
  .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt pip
fi
# llama.cpp is built with OpenMP and does not bring it.
[ "$(uname)" != Linux ] || .venv/bin/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null ||
  fail "The library libgomp is missing (Debian, Ubuntu: apt-get install libgomp1)."

# -qq: errors are shown, warnings about the machine's own pip configuration are not.
exec .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[$1]"
