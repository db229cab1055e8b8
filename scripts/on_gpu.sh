#!/usr/bin/env bash
# Everything that only a GPU can tell, from programs that `cargo xtask cuda pack` put into one folder: neither Rust nor this
# repository is needed there. Each part's output is a file of the second folder.
#
#   scripts/on_gpu.sh target/cuda/pack RESULTS [YARDSTICK]
#
# First the tests, the benches, a whole run beside that on the CPU, and the yardstick, some minutes; then, as long as there is time, single convolutions and the
# sanitizers. Every program starts by compiling the kernels, 10 s. YARDSTICK is the folder of torch_supernet.py. Needs the driver, and libnvrtc.so of CUDA 12 or 13 somewhere.
set -uo pipefail
pack=$1 out=$2 yardstick=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"

if [[ "$(ldconfig -p)" != *libnvrtc* ]]; then
  nvrtc=$(find /usr/local /opt "$HOME" -name 'libnvrtc.so.1[23]' 2>/dev/null | head -1)
  export LD_LIBRARY_PATH="$(dirname "$nvrtc"):${LD_LIBRARY_PATH:-}"
fi
part() { # its name, its time limit in seconds, then the command
  local name=$1 limit=$2 begin=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  printf '%-28s exit code %s, %s s\n' "$name" $? $((SECONDS - begin)) | tee -a "$out/summary.txt"
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/summary.txt"
for test in "$pack"/test-*; do
  SLIMTAU_TEST_GPU=0 part "$(basename "$test")" 100 "$test" --skip nvrtc --test-threads 1
done
for what in step2 step1 standalone eval; do
  part "bench-$what" 60 "$pack/slimtau" bench $what --space cvpr2022 --batch 256 --steps 8 --device cuda --json
done
# The whole pipeline, there and on the CPU: the last lines are tau with its interval.
for device in cuda cpu; do
  part "quick-$device" 240 "$pack/slimtau" run --config "$pack/configs/quick.toml" --device $device --jobs 4 \
    --out "$out/quick-$device" --fresh
  grep -h tau "$out/quick-$device.log" | tee -a "$out/summary.txt"
done
if [ -n "$yardstick" ] && python3 -c "import torch" 2>/dev/null; then
  for what in step2 step1 standalone eval; do
    part "torch-$what" 90 python3 "$yardstick/torch_supernet.py" $what --preset full --batch 256 --steps 8 \
      --device cuda --bf16 --channels-last
  done
fi
part convolutions 60 "$pack/convolutions" 256
if python3 -c "import torch" 2>/dev/null; then
  part cudnn-convolutions 90 python3 "$here/cudnn_convolutions.py" 256
fi
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    SLIMTAU_TEST_GPU=0 part "sanitizer-$tool" 120 compute-sanitizer --tool $tool --error-exitcode 9 \
      "$pack/test-kernels" over_the_grid small_shapes several_chunks --test-threads 1
  done
fi
tail -n 3 "$out"/bench-*.log "$out"/torch-*.log 2>/dev/null
