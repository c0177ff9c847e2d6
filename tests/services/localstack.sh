#!/usr/bin/env bash
# Starts LocalStack (S3 and DynamoDB in one) from what install.sh installed, in the foreground.
#
#   localstack.sh INSTALLED_DIR WORK_DIR PORT
#
# LocalStack downloads DynamoDB Local and a Java runtime unless it finds both where it would have unpacked them.
set -euo pipefail
installed=$1 work=$2 port=$3

lib=$work/fs/var/lib/localstack/lib
mkdir -p "$lib/dynamodb-local" "$lib/java/21/bin"
ln -s "$(cd "$installed/dynamodb" && pwd -P)" "$lib/dynamodb-local/2"
# It runs java with -javaagent and a jar that patches "more than 20 indexes" in; that jar is in no registry.
cat >"$lib/java/21/bin/java" <<JAVA
#!/usr/bin/env bash
arguments=()
for argument in "\$@"; do
    case \$argument in -javaagent:*) ;; *) arguments+=("\$argument") ;; esac
done
exec "$(readlink -f "$(command -v java)")" "\${arguments[@]}"
JAVA
chmod +x "$lib/java/21/bin/java"

# GATEWAY_LISTEN: the default is all interfaces. DNS_ADDRESS=0: no DNS server. OVERRIDE_IN_DOCKER=0: inside a container
# it would ignore FILESYSTEM_ROOT and write to /var/lib/localstack.
exec env OVERRIDE_IN_DOCKER=0 FILESYSTEM_ROOT="$work/fs" TMPDIR="$work" SERVICES=s3,dynamodb \
    STRICT_SERVICE_LOADING=1 EAGER_SERVICE_LOADING=1 DYNAMODB_IN_MEMORY=1 DISABLE_EVENTS=1 SKIP_SSL_CERT_DOWNLOAD=1 \
    DNS_ADDRESS=0 GATEWAY_LISTEN="127.0.0.1:$port" LS_LOG=warn \
    "$installed/venv/bin/python" -m localstack.runtime.main
