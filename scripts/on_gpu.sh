#!/usr/bin/env bash
# Everything that only a GPU can tell, from programs that `cargo xtask cuda pack` put into one folder: Rust is not needed there,
# and of this repository only this script and cudnn_convolutions.py. Each part's output is a file of the second folder; summary.txt
# has the exit codes of this call.
#
#   scripts/on_gpu.sh target/cuda/pack RESULTS [YARDSTICK|'' [PART...]]
#
# Parts, in this order and by default all of them: tests (with whole runs on the GPU and on the CPU, all at once), bench (ours,
# and PyTorch's beside each where YARDSTICK is the folder of torch_supernet.py), layers (single convolutions, ours and cuDNN's),
# profile (time by kernel) and sanitizers. The first program compiles the kernels, 10 s. Needs the driver, and libnvrtc.so
# of CUDA 12 or 13 somewhere. Exits with 1 where a part failed, or none ran.
set -uo pipefail
pack=$1 out=$2 yardstick=${3:-}
shift $(($# < 3 ? $# : 3))
all="tests bench layers profile sanitizers"
parts=" ${*:-$all} "
for part in $parts; do
  [[ " $all " == *" $part "* ]] || { echo "no part '$part': $all" >&2; exit 2; }
done
[ -z "$yardstick" ] || [ -f "$yardstick/torch_supernet.py" ] || { echo "no torch_supernet.py in '$yardstick'" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"

if [[ "$(ldconfig -p)" != *libnvrtc* ]]; then
  nvrtc=$(find /usr/local /opt "$HOME" -name 'libnvrtc.so.1[23]' 2>/dev/null | head -1)
  export LD_LIBRARY_PATH="$(dirname "$nvrtc"):${LD_LIBRARY_PATH:-}"
fi
wanted() { [[ "$parts" == *" $1 "* ]]; }
run() { # its name, its time limit in seconds, then the command
  local name=$1 limit=$2 begin=$SECONDS code=0
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  printf '%-28s exit code %s, %s s\n' "$name" $code $((SECONDS - begin)) | tee -a "$out/summary.txt"
}
has_torch() { python3 -c "import torch" 2>/dev/null; }
skipped() { echo "$1: skipped, no $2" | tee -a "$out/summary.txt"; }

rm -f "$out"/{quick,bench,torch}-*.log # of an earlier call
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/summary.txt"
if wanted tests; then
  export SLIMTAU_PROGRAM=$pack/slimtau # what the driver's tests start
  # The machine code's cache is filled once, not by all at the same time.
  SLIMTAU_TEST_GPU=0 run test-kernels 100 "$pack/test-kernels" --skip nvrtc --test-threads 1
  for test in "$pack"/test-*; do
    [[ $test == */test-kernels ]] ||
      SLIMTAU_TEST_GPU=0 run "$(basename "$test")" 100 "$test" --skip nvrtc --test-threads 1 &
  done
  # The whole pipeline: the last lines are tau with its interval.
  for device in cuda cpu; do
    run "quick-$device" 240 "$pack/slimtau" run --config "$pack/configs/quick.toml" --device $device --jobs 4 \
      --threads 4 --out "$out/quick-$device" --fresh &
  done
  wait
  grep -h tau "$out"/quick-*.log | tee -a "$out/summary.txt"
fi
if wanted bench; then
  [ -z "$yardstick" ] || has_torch || skipped torch PyTorch
  for what in step2 step1 standalone eval; do
    run "bench-$what" 60 "$pack/slimtau" bench $what --space cvpr2022 --batch 256 --steps 20 --device cuda --json
    if [ -n "$yardstick" ] && has_torch; then
      run "torch-$what" 90 python3 "$yardstick/torch_supernet.py" $what --preset full --batch 256 --steps 20 \
        --device cuda --bf16 --channels-last
    fi
  done
  tail -n 2 "$out"/bench-*.log "$out"/torch-*.log 2>/dev/null
fi
if wanted layers; then
  run convolutions 60 "$pack/convolutions" 256
  if has_torch; then
    run cudnn-convolutions 90 python3 "$here/cudnn_convolutions.py" 256
  else
    skipped cudnn-convolutions PyTorch
  fi
fi
if wanted profile && ! command -v ncu >/dev/null; then
  skipped profile ncu
elif wanted profile; then
  for what in step2 eval; do
    run "profile-$what" 120 ncu --metrics gpu__time_duration.sum --clock-control none --cache-control none --csv \
      "$pack/slimtau" bench $what --space cvpr2022 --batch 256 --steps 1 --device cuda
  done
fi
if wanted sanitizers && ! command -v compute-sanitizer >/dev/null; then
  skipped sanitizers compute-sanitizer
elif wanted sanitizers; then
  # memcheck counts the driver's answers, too: that a kernel is not in this module but in the next is one of them.
  for tool in "memcheck --report-api-errors no" racecheck; do
    SLIMTAU_TEST_GPU=0 run "sanitizer-${tool%% *}" 120 compute-sanitizer --tool $tool --error-exitcode 9 \
      "$pack/test-kernels" over_the_grid small_shapes several_chunks --test-threads 1 &
  done
  wait
fi
grep -q 'exit code' "$out/summary.txt" && ! grep -q 'exit code [1-9]' "$out/summary.txt"
