#!/usr/bin/env bash
# Makes or refreshes one virtual environment: dev/venv.sh PYTHON FOLDER TORCH
set -euo pipefail
python=$1 folder=$2 torch=$3

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
# A constraint of the whole machine must not decide which torch is tested.  Python compiles what it
# imports; all of torch at once is half of the install's time.
pip() { PIP_CONSTRAINT=/dev/null "$folder/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }

pip "torch==$torch" -e ".[models,test,dev]"
if ! "$folder/bin/python" -c 'import triton' 2>/dev/null; then
    # CPU builds of torch bring no Triton; scheduling for a GPU asks for it, each torch its own.
    case "$torch" in
        2.11.*) pip 'triton==3.6.*' ;;
        2.12.* | 2.13.*) pip 'triton==3.7.*' ;;
        2.14.*) pip 'triton==3.8.*' ;;
        *) pip 'triton>=3.9,<4' ;;
    esac
fi
touch "$folder/.ready"
