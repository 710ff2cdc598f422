#!/usr/bin/env bash
# All that needs a GPU, in under ten minutes: every component on it against the processor, the table of benchmarks/gpu.py,
# and influence through a long run on Omniglot (if METAFLUENCE_DATA is set). Writes under the folder given, or results/gpu.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-results/gpu}
mkdir -p "$OUT"
export PYTHONPATH=$PWD/framework:$PWD/plugins${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
for kind in learner backbone solver method loop study; do
  OMP_NUM_THREADS=2 timeout 120 python3 tests/device_work.py $kind cuda:0 > "$OUT/device-$kind.jsonl" 2>&1 &
done
wait
python3 - "$OUT" <<'PY'
import json, pathlib, sys
for file in sorted(pathlib.Path(sys.argv[1]).glob("device-*.jsonl")):
    found = [json.loads(line) for line in file.read_text().splitlines() if line.startswith('["')]
    wrong = [(name, said) for name, said in found if said]
    print(f"{file.stem}: {len(found)} tried, {len(wrong)} differ from the processor or failed")
    for name, said in wrong[:5]:
        print("   ", name, said[-300:])
PY
timeout 120 python3 benchmarks/gpu.py 2>&1 | tee "$OUT/table.txt"
if [ -n "${METAFLUENCE_DATA:-}" ]; then
  # The paper's size: 5-way 1-shot, conv4 with 64 filters, 1,000 tasks, 2,000 steps; then each episode seen once.
  omniglot() { timeout 240 python3 benchmarks/run_omniglot.py "$@" --width 64 --steps 2000 --after 1800 --device cuda; }
  {
    omniglot maml-adam-smooth --tasks 1000 --subsets 10
    omniglot protonet-adam-smooth --tasks 1000 --subsets 10
    omniglot maml-adam-smooth --subsets 4
    omniglot maml-published --tasks 1000 --subsets 4
    omniglot protonet-published --tasks 1000 --subsets 4
  } 2>&1 | tee "$OUT/omniglot.txt"
fi
