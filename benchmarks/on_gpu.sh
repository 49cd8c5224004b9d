#!/usr/bin/env bash
# What wants a CUDA GPU, in one call: tests, benchmarks of speed, rows of Table 1. Stops at nothing.
#
#     benchmarks/on_gpu.sh DATA_DIR OUT_DIR [EPOCHS]
#
# DATA_DIR holds cifar100 (DATA.md). OUT_DIR gets logs, the benchmarks' JSON, and results/ with records as the pipeline
# lays them out. With EPOCHS the rows of Table 1 are cut to so many at scale paper; else they take their 500. Needs
# Python with this project's dependencies; Snakemake is not among those that are used here.
set -u
data_dir=$1 out=$2 epochs=${3:-}
cd "$(dirname "$0")/.."
mkdir -p "$out"
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
step() {
    echo "== $1, ${SECONDS} s"
    "${@:2}" > "$out/$1.log" 2>&1 || echo "   failed: $out/$1.log"
}
step tests python -m pytest -q tests/cuda
step step_time python -m benchmarks.step_time --steps 20 --out "$out/step_time.json"
step step_time_blocks python -m benchmarks.step_time --override '{compute: {compile: blocks}}' --steps 20 --out "$out/step_time_blocks.json"
step step_time_same_bits python -m benchmarks.step_time --override '{compute: {deterministic: true}}' --steps 20 --out "$out/step_time_same_bits.json"
step plain_vit python -m benchmarks.plain_vit --rounds 10 --out "$out/plain_vit.json"
step architectures python -m benchmarks.architectures --readings 3 --out "$out/architectures.json"
step sampling_time python -m benchmarks.sampling_time --out "$out/sampling_time.json"
step text_speed python -m benchmarks.text_speed --out "$out/text_speed.json"
step table_1 python -m benchmarks.table_1 --data-dir "$data_dir" --results "$out/results" ${epochs:+--epochs "$epochs"} \
    --out "$out/table_1.json"
echo "== end, ${SECONDS} s"
