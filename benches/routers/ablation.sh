#!/bin/sh
# Ablation of HarmoniCa's parts on the built-in model: trains one router for each variant, then measures all of them side
# by side on prompts that no training saw. Run from the repository's root after `cargo build --release`:
#
#     benches/routers/ablation.sh [FOLDER] [ITERATIONS] [BUDGET]
#
# The table of the crate refrain-train comes from here. With the defaults it takes about two hours on two cores.
set -eu

out=${1:-target/ablation}
iterations=${2:-2000}
budget=${3:-0.5}
refrain=${REFRAIN:-target/release/refrain}
mkdir -p "$out"

train() {
    name=$1
    shift
    [ -f "$out/$name.plan.safetensors" ] || "$refrain" train router --method harmonica --steps 20 \
        --sampling-method ddim --cfg-scale 4 --cost flops --budget "$budget" --iterations "$iterations" \
        -o "$out/$name.plan.safetensors" "$@"
}

train reuse          --forecast 0
train single-step    --forecast 0 --trajectory teacher
train no-lambda      --forecast 0 --proxy uniform
train telescoping    --forecast 0 --proxy telescoping
train soft           --forecast 0 --hardening soft
train straight       --forecast 0 --hardening straight-through
train forecast-1     --forecast 1
train forecast-2     --forecast 2

policies=off
for plan in "$out"/*.plan.safetensors; do
    policies=$policies,$plan
done
"$refrain" bench cache --prompt-file samples/prompts/held-out-64.txt --steps 20 --sampling-method ddim --cfg-scale 4 \
    --no-rivals --policies "$policies" -o "$out/bench"
