#!/bin/sh
# Ablation of HarmoniCa's parts on the built-in model: trains one router for each variant, then measures all of them side
# by side on prompts that no training saw. Run from the repository's root after `cargo build --release`:
#
#     benches/routers/ablation.sh [FOLDER] [ITERATIONS] [BUDGET] [STEPS]
#
# The table of the crate refrain-train comes from here. A variant whose plan is there already is not trained again. With
# the defaults it takes about half an hour of one core; 1200 0.5 20, which the table has, 50 minutes.
set -eu

out=${1:-target/ablation}
iterations=${2:-150}
budget=${3:-0.6}
steps=${4:-6}
refrain=${REFRAIN:-target/release/refrain}
mkdir -p "$out"

train() {
    name=$1
    shift
    [ -f "$out/$name.plan.safetensors" ] || "$refrain" train router --method harmonica --steps "$steps" --threads 1 \
        --sampling-method ddim --cfg-scale 4 --cost flops --budget "$budget" --iterations "$iterations" \
        --refresh $((iterations / 3)) -o "$out/$name.plan.safetensors" "$@"
}

# The published method with decisions that harden in the last third; every other line changes one thing.
train reuse          --forecast 0
train forecast       --forecast 1
train soft           --forecast 0 --hardening soft
train no-lambda      --forecast 0 --proxy uniform
train single-step    --forecast 0 --trajectory teacher
train telescoping    --forecast 0 --proxy telescoping
train straight       --forecast 0 --hardening straight-through

policies=off
for plan in "$out"/*.plan.safetensors; do
    policies=$policies,$plan
done
"$refrain" bench cache --prompt-file samples/prompts/held-out-64.txt --steps "$steps" --sampling-method ddim --cfg-scale 4 \
    --no-rivals --policies "$policies" -o "$out/bench"
