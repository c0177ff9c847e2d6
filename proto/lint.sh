#!/bin/sh
# Checks the contracts against buf's STANDARD rules, with a pinned buf that is kept under target/.
#
# Usage: proto/lint.sh [further arguments of `buf lint`]
# Needs npm, and the npm registry for the first run.
set -eu

version=1.75.0
here=$(cd "$(dirname "$0")" && pwd)
tools="$here/../target/buf-$version"
buf="$tools/node_modules/.bin/buf"

if [ ! -x "$buf" ]; then
    mkdir -p "$tools"
    npm install --prefix "$tools" --no-audit --no-fund --no-save --loglevel=error "@bufbuild/buf@$version"
fi
cd "$here"
exec "$buf" lint "$@"
