#!/usr/bin/env bash
# The whole study of docs/does-it-pay.md, the most valuable runs first; done again, only what is missing. Start it twice
# to use two cores: they share the work.
set -euo pipefail
cd "$(dirname "$0")/../.."
records=docs/does-it-pay.json
study() { OMP_NUM_THREADS=1 python -m benchmarks.quality --json "$records" "$@"; }

core=(joint "task + logits only" "round robin" optima)
tasks=(questions entailment captions two_pictures)
uneven=("${tasks[@]/%//uneven/little}")
even=("${tasks[@]/%//even/little}")
shares=("shares "{8:1:1,6:2:2,6:1:3,6:3:1,4:3:3,4:1:5,4:5:1,2:4:4})

# What is tuned and tried is on seeds that are not reported.
study --tune --methods "${core[@]}" "all, round robin" "active, round robin" --first-seed 100 --seeds 1
study --methods "${shares[@]}" --first-seed 100 --seeds 1
exec > /dev/null
tried() { study --first-seed 110 --seeds 3 "$@"; }
tried --recipes "${uneven[@]}" --methods joint optima "optima, tail 15 %" "optima, tail 50 %" "optima, end to end"
tried --recipes {captions,entailment}/uneven/little --methods "image only"
tried --recipes {questions,captions}/uneven/little --methods "optima, absolute" "optima, absolute per cost" \
    "optima, settle 0" "optima, half as curious"
tried --recipes {questions,entailment}/even/little --methods joint optima "optima, end to end"
for seeds in 2 5; do study --recipes "${uneven[@]}" --methods "${core[@]}" --seeds $seeds; done
study --recipes "${uneven[@]}" --methods optima --budget 14.4
study --recipes "${even[@]}" --methods "${core[@]}" --seeds 3
study --recipes questions/uneven/plenty --methods "${core[@]}"
study --recipes "${uneven[@]}" --methods "optima per cost" uniform
study --recipes questions/uneven/little --methods "round robin, no tail" "optima, no tail" "active, round robin" \
    "active, optima" "all, round robin" "all, optima" "image only" "text only" "decoder only" "shares 8:1:1"
study --recipes "${even[@]}" --methods "${core[@]}"
study --recipes "${even[@]}" questions/uneven/plenty --methods optima --budget 14.4
# Longer, for traces of rewards.
study --recipes {questions,captions}/uneven/little {questions,entailment}/even/little \
    --methods "round robin, no tail" --first-seed 110 --seeds 1 --budget 48
study --recipes {entailment,captions,two_pictures}/uneven/little --methods "all, round robin" "all, optima" --seeds 3
study --recipes "${even[@]}" --methods "optima per cost" uniform "all, round robin" "all, optima" --seeds 3
