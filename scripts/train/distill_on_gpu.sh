#!/usr/bin/env bash
# Distills the LoRAs for few steps on one GPU, in about nine minutes: bash scripts/train/distill_on_gpu.sh OUT
# It needs python3 with torch; wheels of diffusers and transformers may be in whl/ if the machine has no network.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
exec > >(tee -a "$out/log.txt") 2>&1
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
if [ -d "$root/whl" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/distill-site "$root"/whl/*.whl
    export PYTHONPATH=/tmp/distill-site
fi
work=$(mktemp -d)
python3 train.py import --state "$work/state" --models "$root/models"
for kind in layered edit; do
    count=$([ $kind = layered ] && echo 4096 || echo 3072)
    {
        python3 distill_data.py $kind --state "$work/state" --out "$work/data" --count "$count" --chunk 128
        for steps in 4 8; do
            python3 distill.py $kind --models "$root/models" --data "$work/data" --out "$out" --steps $steps \
                --seconds "${SECONDS_EACH:-330}" &
        done
        wait
    } &
done
wait
