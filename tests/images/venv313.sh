#!/usr/bin/env bash
# venv313.sh DIRECTORY: a virtual environment of the Python 3.13 here, with everything the tests need. Made once.
set -euo pipefail
[ -e "$1/ready" ] && exit
rm -rf "$1"
python=$(command -v python3.13)
"$python" -m venv "$1"
"$1/bin/python" -m pip install -q --require-hashes -r requirements/dev.txt
touch "$1/ready"
