#!/usr/bin/env bash
# Distills LoRAs for four steps on one GPU, in about nine minutes: bash scripts/train/distill_on_gpu.sh OUT
# OUT/log.txt compares them with the teacher and with the checkpoints without a LoRA.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
exec > >(tee -a "$out/log.txt") 2>&1
cd "$(dirname "$0")"
state=$(mktemp -d)
python3 train.py import --state "$state" --models ../../models
distill() { python3 distill.py "$@" --state "$state" --out "$out"; }
{
    distill layered --seconds 170 --truth 1 --compare
    distill layered --seconds 150 --truth 0.5
} &
{
    distill edit --seconds 80 --truth 0.5 --compare
    distill edit --seconds 80 --truth 0
    distill edit --seconds 80 --truth 1
} &
wait
