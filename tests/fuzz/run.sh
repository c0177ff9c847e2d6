#!/bin/sh
# Runs every fuzz target for some seconds, with at most 256 MiB of memory. Fails on the first finding, and says where its input is.
#
# Usage: tests/fuzz/run.sh SECONDS [TARGET...]
# `cargo test` gives each target its seeds and some thousand changes of them: tests/integration/tests/decoders.rs. This here finds more.
# Needs a nightly toolchain; installs cargo-fuzz under target/ if there is none.
set -eu

seconds=${1:?"usage: tests/fuzz/run.sh SECONDS [TARGET...]"}
shift
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target_dir=${CARGO_TARGET_DIR:-$root/target}

export PATH="$target_dir/tools/bin:$PATH"
if ! command -v cargo-fuzz >/dev/null; then
    cargo install --locked --root "$target_dir/tools" cargo-fuzz@0.13.2
fi

if [ $# -eq 0 ]; then
    # The names of the [[bin]] sections.
    set -- $(sed -n '/^\[\[bin\]\]/,/^$/s/^name = "\(.*\)"$/\1/p' "$here/Cargo.toml")
fi

cd "$root"
for target in "$@"; do
    echo "fuzz: $target, $seconds s"
    # Seeds are kept with the code; what the fuzzer finds by itself is not.
    corpus="$target_dir/fuzz-corpus/$target"
    mkdir -p "$corpus" "$target_dir/fuzz-artifacts/$target"
    seeds="$here/seeds/$target"
    [ -d "$seeds" ] || seeds=
    # No sanitizer that multiplies memory: unsafe code is forbidden, and the limit is on what the code itself takes.
    cargo +nightly fuzz run --fuzz-dir "$here" --target-dir "$target_dir/fuzz" --sanitizer none "$target" \
        "$corpus" $seeds -- -max_total_time="$seconds" -rss_limit_mb=256 -max_len=65536 -timeout=10 \
        -artifact_prefix="$target_dir/fuzz-artifacts/$target/"
done
