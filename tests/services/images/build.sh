#!/usr/bin/env bash
# Builds container images from the natively installed services, for a machine with an engine but no image registry.
#
#   tests/services/images/build.sh [minio | dynamodb | seaweedfs]...     (default: all three)
#
# Prints the exports that make the tests use them:
#   eval "$(tests/services/images/build.sh)"
#   TIDELOG_TEST_SERVICES=containers cargo test -p tidelog-test-services --features containers
#
# Each image holds the service, the libraries that it is linked with and nothing else, and takes the arguments of the
# public image. LocalStack is not among them: its image is half a distribution.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# add_libraries FILE...: what these are linked with, at the same paths.
add_libraries() {
    # Both fail for a program that is linked with nothing.
    { ldd "$@" 2>/dev/null | grep -o '/[^ :]*\.so[^ :]*' || true; } | sort -u | while read -r library; do
        [ -e "$root$library" ] || install -D "$library" "$root$library"
    done
}

# pack NAME ENTRYPOINT WORK_DIR: the root folder becomes the image, and is emptied.
pack() {
    mkdir -p "$root/tmp" "$root/data"
    tar -C "$root" -c . | docker import --change "ENTRYPOINT [\"$2\"]" --change "WORKDIR $3" - "tidelog-test-$1:local" >&2
    echo "export TIDELOG_TEST_IMAGE_$(echo "$1" | tr '[:lower:]' '[:upper:]')=tidelog-test-$1:local"
    rm -rf "${root:?}"/*
}

build_minio() {
    install -D "$1/minio" "$root/minio"
    add_libraries "$root/minio"
    pack minio /minio /
}

build_seaweedfs() {
    install -D "$1/venv/bin/weed" "$root/weed"
    add_libraries "$root/weed"
    pack seaweedfs /weed /
}

build_dynamodb() {
    local java_home
    java_home=$(dirname "$(dirname "$(readlink -f "$(command -v java)")")")
    mkdir -p "$root/jre"
    # Links are followed: Debian keeps parts of it in /etc. Left out is what only a compiler or a debugger wants.
    tar -C "$java_home" -ch --exclude=src.zip --exclude=ct.sym bin lib conf | tar -C "$root/jre" -x
    cp -r "$1/DynamoDBLocal_lib" "$root/"
    # The public image is started by `-jar DynamoDBLocal.jar`. Inside, all interfaces are its own.
    python3 - "$root" <<'PYTHON'
import os, sys, zipfile

root = sys.argv[1]
manifest = "Manifest-Version: 1.0\nMain-Class: com.amazonaws.services.dynamodbv2.local.main.ServerRunner\n"
manifest += "Class-Path: DynamoDBLocal.jar\n"
# A line holds 72 bytes; one that starts with a space continues the line before.
for jar in sorted(name for name in os.listdir(root + "/DynamoDBLocal_lib") if name.endswith(".jar")):
    text = " DynamoDBLocal_lib/" + jar
    manifest += "".join(" " + text[start : start + 70] + "\n" for start in range(0, len(text), 70))
with zipfile.ZipFile(root + "/DynamoDBLocal.jar", "w") as archive:
    archive.writestr("META-INF/MANIFEST.MF", manifest)
PYTHON
    find "$root/jre" -type f \( -name '*.so' -o -path '*/bin/java' \) -print0 | while IFS= read -r -d '' file; do
        add_libraries "$file"
    done
    # The libraries of the runtime itself are found there and need no second copy.
    rm -rf "${root:?}$java_home"
    pack dynamodb /jre/bin/java /
}

for service in "${@:-}"; do
    case $service in
    minio | dynamodb | seaweedfs) services=("$service") ;;
    '') services=(minio dynamodb seaweedfs) ;;
    *)
        echo "unknown service '$service': minio, dynamodb or seaweedfs" >&2
        exit 2
        ;;
    esac
    for name in "${services[@]}"; do "build_$name" "$("$here/../install.sh" "$name" | tail -1)"; done
done
