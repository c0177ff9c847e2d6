#!/usr/bin/env bash
# Fetches real data for tests, once: flights-200k.json and github.csv of the npm package vega-datasets, one record a line.
set -euo pipefail
cd "$(dirname "$0")/.."
into=${TIDELOG_DATASETS:-target/datasets}
version=3.2.1
[ -e "$into/.ok-$version" ] && exit 0
mkdir -p "$into"
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
(cd "$unpacked" && npm pack --silent "vega-datasets@$version" > /dev/null && tar xzf ./*.tgz)
# A JSON array becomes one object a line; the CSV is one row a line already.
python3 - "$unpacked/package/data" "$into" <<'PY'
import json, pathlib, sys
source, into = map(pathlib.Path, sys.argv[1:])
rows = json.loads((source / "flights-200k.json").read_text())
with open(into / "flights-200k.jsonl", "w", encoding="utf-8", newline="\n") as out:
    out.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
(into / "github.csv").write_bytes((source / "github.csv").read_bytes())
PY
touch "$into/.ok-$version"
wc -lc "$into"/*.jsonl "$into"/*.csv
