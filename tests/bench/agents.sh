#!/usr/bin/env bash
# Produces through 1, 2 and 3 agents on MinIO and DynamoDB Local, and prints MiB/s, MiB for each CPU-second of all agents, metadata
# appends a second and bytes a flush. The stores run on the same machine, so more agents share it; what can be compared is the cost.
#
#   tests/bench/agents.sh [SECONDS]      needs target/release/tidelog (cargo build --release) and the services (tests/services/install.sh)
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-8}
tidelog=${TIDELOG_BIN:-target/release/tidelog}
work=$(mktemp -d)
pids=()
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$work"' EXIT

# The services stop when their standard input ends.
sleep infinity | cargo run --quiet -p tidelog-test-services -- up minio dynamodb > "$work/services" &
pids+=($!)
until grep -q -- --metadata "$work/services" 2>/dev/null; do sleep 0.5; done
# It prints `export` lines, and a line with the two URLs.
eval "$(grep '^export' "$work/services")"
urls=$(grep -- --storage "$work/services")

sum() { # METRIC PORT...: the sum over agents
    local metric=$1 total=0 port
    shift
    for port in "$@"; do
        total=$(curl -s "http://127.0.0.1:$port/metrics" | awk -v metric="$metric" -v total="$total" '$1 == metric {total += $2} END {print total}')
    done
    echo "$total"
}

turn=0
for round in warm-up 1 2 3 1 2 3; do
    count=${round/warm-up/1}
    turn=$((turn + 1))
    # Stores of its own for each round.
    eval "set -- $(echo "$urls" | sed "s|s3://tidelog?|s3://tidelog/$turn?|; s|dynamodb://tidelog?|dynamodb://tidelog-$turn?|")"
    "$tidelog" init "$@" --create-bucket > "$work/init.log" 2>&1
    agents=() endpoints=() admin=()
    for ((n = 0; n < count; n++)); do
        "$tidelog" agent "$@" --listen 127.0.0.1:$((27070 + n)) \
            --admin-listen 127.0.0.1:$((27170 + n)) --flush-interval 100ms 2> "$work/agent-$n.log" &
        agents+=($!) endpoints+=("http://127.0.0.1:$((27070 + n))") admin+=($((27170 + n)))
    done
    pids+=("${agents[@]}")
    for port in "${admin[@]}"; do until curl -sf "http://127.0.0.1:$port/readyz" > /dev/null; do sleep 0.1; done; done
    list=$(IFS=,; echo "${endpoints[*]}") ids=$(IFS=,; echo "${agents[*]}")
    before=$(sum tidelog_metadata_entries_total "${admin[@]}") bytes=$(sum tidelog_metadata_entry_bytes_total "${admin[@]}")
    said=$("$tidelog" bench produce --endpoint "$list" --connections 6 --pid "$ids" --duration "${seconds}s")
    after=$(sum tidelog_metadata_entries_total "${admin[@]}") bytes_after=$(sum tidelog_metadata_entry_bytes_total "${admin[@]}")
    [ "$round" = warm-up ] || {
        echo "$count agents"
        echo "$said" | sed 's/^/  /'
        awk -v a="$before" -v b="$after" -v c="$bytes" -v d="$bytes_after" \
            'BEGIN {printf "  metadata    %d appends, %.0f bytes each\n", b - a, (d - c) / (b - a)}'
    }
    kill "${agents[@]}"
    wait "${agents[@]}" || true
done
