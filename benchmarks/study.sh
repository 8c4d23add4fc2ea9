#!/usr/bin/env bash
# The whole study of docs/does-it-pay.md, the most valuable runs first; done again, only what is missing. Start it twice
# to use two cores: they share the work.
set -euo pipefail
cd "$(dirname "$0")/.."
records=docs/does-it-pay.json
study() { OMP_NUM_THREADS=1 python -m benchmarks.quality --json "$records" "$@"; }

core=(joint "task + logits only" "round robin" optima)
tasks=(questions entailment captions two_pictures)
uneven=("${tasks[@]/%//uneven/little}")
even=("${tasks[@]/%//even/little}")
shares=("shares "{8:1:1,6:2:2,6:1:3,6:3:1,4:3:3,4:1:5,4:5:1,2:4:4})

study --tune --methods "${core[@]}" --first-seed 100 --seeds 1
study --methods "${shares[@]}" --first-seed 100 --seeds 1
exec > /dev/null
for seeds in 2 5; do study --recipes "${uneven[@]}" --methods "${core[@]}" --seeds $seeds; done
study --recipes "${uneven[@]}" --methods optima --budget 14.4
study --recipes "${even[@]}" --methods "${core[@]}" --seeds 3
study --recipes questions/uneven/plenty --methods "${core[@]}"
study --recipes "${uneven[@]}" --methods "optima per cost" uniform
study --recipes questions/uneven/little --methods "round robin, no tail" "optima, no tail" "active, round robin" \
    "active, optima" "all, round robin" "all, optima" "image only" "text only" "decoder only" "shares 8:1:1"
study --recipes "${even[@]}" --methods "${core[@]}"
study --recipes "${even[@]}" questions/uneven/plenty --methods optima --budget 14.4
# Longer, for traces of rewards, and to see where joint's plateau is.
study --recipes questions/uneven/little questions/even/little captions/uneven/little --methods "round robin, no tail" \
    --seeds 1 --budget 48
study --recipes questions/uneven/{little,plenty} --methods "${core[@]}" --seeds 3 --budget 96
study --recipes "${even[@]}" questions/uneven/plenty --methods "optima per cost"
study --recipes {entailment,captions,two_pictures}/uneven/little questions/even/little \
    --methods "all, round robin" "all, optima"
