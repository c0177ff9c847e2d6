#!/usr/bin/env bash
# Sets up all that the tests need, and runs them. Needs a Rust toolchain, a C compiler, Go, Java 17 or later, Maven, Python 3.13 or later
# and npm; as root on a Debian system it installs what is missing. The first run takes about half an hour on two cores,
# most of it compiling; later ones some ten minutes.
#
#   tests/run.sh                              everything
#   TIDELOG_TEST_SERVICES=none tests/run.sh   without MinIO, DynamoDB Local, LocalStack, SeaweedFS and grpcio: needs Rust, npm and Python
set -euo pipefail
cd "$(dirname "$0")/.."
unset TIDELOG_ENDPOINT TIDELOG_STORAGE TIDELOG_METADATA

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "data sets and services"
tests/datasets.sh
if [ "${TIDELOG_TEST_SERVICES:-auto}" != none ]; then
  tests/services/install.sh all
  tests/compat/venv.sh > /dev/null
fi

step "the binary that the end-to-end tests run"
cargo build --locked -p tidelog

step "tests"
cargo test --locked --workspace --no-fail-fast
