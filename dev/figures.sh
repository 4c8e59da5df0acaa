#!/usr/bin/env bash
# Makes the comparison figures of docs/figures.md again: dev/figures.sh FOLDER [TORCH...]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
shift
[ $# -gt 0 ] || set -- 2.11.0 2.13.0 2.15.0
mkdir -p "$folder"
for torch in "$@"; do
    run() { make --no-print-directory compare TORCH="$torch" TARGET="$1" \
        ARGS="--top 0 --json $folder/$1-$2-$torch.json --tracing $2 ${3-}"; }
    for style in fused-add-rmsnorm fused-add-rmsnorm-hf; do
        run "$style" make_fx
        run "$style" dynamo
    done
    run llama-3.1-8b dynamo
done
