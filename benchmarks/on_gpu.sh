#!/usr/bin/env bash
# What wants a CUDA GPU, in one call: tests, benchmarks of speed, memory, tables' rows. Stops at nothing.
#
#     benchmarks/on_gpu.sh DATA_DIR OUT_DIR [SHARE [STEP …]]
#
# DATA_DIR holds cifar100 (DATA.md). OUT_DIR gets logs, the benchmarks' JSON, and results/ with records as the pipeline
# lays them out, at scale paper; with a SHARE below 1 rows train for that share of their budget. STEPs are run alone if
# given (their names are below, most wanted first); LIMIT=SECONDS ends each that takes longer; TEXT=FILE is a text for
# Table 3, named in its records as the file is; TOGETHER=1 trains all rows of a table at once, ROWS="vit/end_to_end …"
# these alone, with one STEP; TESTS=EXPRESSION picks tests, as pytest's -k. A step that LIMIT ends leaves its log and the
# records of rows that ended; what a benchmark of speed measures is written at its end. Needs Python with this
# project's dependencies, Snakemake aside.
set -u
data_dir=$1 out=$2 share=${3:-1} wanted=" ${*:4} "
[[ $share =~ ^(1|0?\.[0-9]+)$ ]] || { echo "SHARE is above 0 and at most 1, as 0.04, not '$share'"; exit 2; }
for name in ${*:4}; do
    grep -q "step $name " "$0" || { echo "no step '$name'; there are: $(grep -oP '^ *(\w+=\S+ )?step \K\w+' "$0" | xargs)"; exit 2; }
done
python=${PYTHON:-$(command -v python || command -v python3)}
[[ -z ${ROWS:-} || $wanted =~ ^\ (table_[0-9]+|choices)\ $ ]] || { echo "ROWS wants one STEP, that of its table"; exit 2; }
data_dir=$(realpath "$data_dir") out=$(realpath -m "$out") text=${TEXT:+$(realpath "$TEXT")}
cd "$(dirname "$0")/.."
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "no CUDA GPU for $python"; exit 2; }
mkdir -p "$out"
# cuBLAS reads its setting once a process, and the tests want it
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 CUBLAS_WORKSPACE_CONFIG=:4096:8
step() {
    [[ $wanted == "  " || $wanted == *" $1 "* ]] || return
    echo "== $1, ${SECONDS} s"
    timeout -k 10 "${LIMIT:-0}" "${@:2}" > "$out/$1.log" 2>&1 || echo "   failed or ended: $out/$1.log"
}
abreast=$("$python" -c 'import xdist' 2> /dev/null && echo "-n 8")
TORCHINDUCTOR_COMPILE_THREADS=2 step tests "$python" -m pytest -vv -rs -p no:cacheprovider $abreast ${TESTS:+-k "$TESTS"} tests/cuda
timed=("$python" -m benchmarks.step_time --steps 20)
step step_time "${timed[@]}" --out "$out/step_time.json"
step step_time_layers "${timed[@]}" --override '{compute: {compile: on}}' --out "$out/step_time_layers.json"
step step_time_same_bits "${timed[@]}" --override '{compute: {deterministic: true}}' --out "$out/step_time_same_bits.json"
TORCHINDUCTOR_ENABLE_PDL=1 step step_time_dependent_launch "${timed[@]}" --out "$out/step_time_dependent_launch.json"
step step_profile "$python" -m benchmarks.step_profile --out "$out/step_profile.json"
step plain_vit "$python" -m benchmarks.plain_vit --rounds 10 --out "$out/plain_vit.json"
step architectures "$python" -m benchmarks.architectures --readings 3 --out "$out/architectures.json"
step sampling_time "$python" -m benchmarks.sampling_time --out "$out/sampling_time.json"
step text_speed "$python" -m benchmarks.text_speed --out "$out/text_speed.json"
step memory "$python" -m benchmarks.measurements --kind memory --results "$out/results"
rows=("$python" -m benchmarks.table_runs --data-dir "$data_dir" --results "$out/results" --share "$share" ${TOGETHER:+--together} ${ROWS:+--rows $ROWS})
step table_1 "${rows[@]}" --out "$out/table_1.json"
step table_6 "${rows[@]}" --table table_6 --out "$out/table_6.json"
if [[ -n $text ]]; then
    title=$(basename "$text") title=${title%.*}
    step table_3 "${rows[@]}" --table table_3 --override "{data: {name: characters, path: '$text', title: '$title'}}" \
        --out "$out/table_3.json"
else
    echo "== table_3 left out: it wants TEXT=FILE"
fi
step choices "${rows[@]}" --table choices --out "$out/choices.json"
echo "== end, ${SECONDS} s"
