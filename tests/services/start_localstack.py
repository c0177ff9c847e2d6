"""Runs LocalStack (S3 and DynamoDB in one) from what install.sh installed, on 127.0.0.1, in the foreground.

    .../venv/bin/python start_localstack.py INSTALLED_DIR WORK_DIR PORT
"""

import os
import shutil
import sys
from pathlib import Path

installed, work, port = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3]

# LocalStack downloads DynamoDB Local and a Java runtime unless it finds both where it would have unpacked them. The jar
# is never read: our java replaces it by the main class that listens on 127.0.0.1, and drops the agent that patches "more
# than 20 indexes" in, whose jar is in no registry.
lib = work / "fs/var/lib/localstack/lib"
dynamodb = installed / "dynamodb"
(lib / "dynamodb-local/2/DynamoDBLocal_lib").mkdir(parents=True)
(lib / "dynamodb-local/2/DynamoDBLocal.jar").touch()
java = lib / "java/21/bin/java"
java.parent.mkdir(parents=True)
java.write_text(f"""#!/usr/bin/env bash
arguments=(-XX:-UsePerfData -Djava.io.tmpdir="{work}")
while [ $# -gt 0 ]; do
    case $1 in
    -javaagent:* | -Djava.library.path=*) ;;
    -jar) arguments+=(-Djava.library.path="{dynamodb}/DynamoDBLocal_lib" \
        -cp "{dynamodb}/DynamoDBLocal_lib/*:{dynamodb}/classes" DynamoDbOnLoopback); shift ;;
    *) arguments+=("$1") ;;
    esac
    shift
done
exec "{os.path.realpath(shutil.which("java"))}" "${{arguments[@]}}"
""")
java.chmod(0o755)

os.environ.update(
    FILESYSTEM_ROOT=str(work / "fs"),
    OVERRIDE_IN_DOCKER="0",  # inside a container it would ignore FILESYSTEM_ROOT and write to /var/lib/localstack
    TMPDIR=str(work),
    GATEWAY_LISTEN=f"127.0.0.1:{port}",
    DNS_ADDRESS="0",  # no DNS server
    SERVICES="s3,dynamodb",
    STRICT_SERVICE_LOADING="1",
    EAGER_SERVICE_LOADING="1",
    DYNAMODB_IN_MEMORY="1",
    DISABLE_EVENTS="1",  # no report to its maker
    SKIP_SSL_CERT_DOWNLOAD="1",
    LS_LOG="warn",
)

# It takes the port from GATEWAY_LISTEN, but not the address: it would listen on all interfaces.
from twisted.internet import endpoints  # noqa: E402


class Loopback(endpoints.TCP4ServerEndpoint):
    def __init__(self, reactor, port, backlog=50, interface="127.0.0.1"):
        super().__init__(reactor, port, backlog, interface)


endpoints.TCP4ServerEndpoint = Loopback

# Else all LocalStacks of a machine would share one folder in /tmp.
from localstack.services.s3 import provider  # noqa: E402

provider.DEFAULT_S3_TMP_DIR = str(work / "s3")

from localstack.runtime.main import main  # noqa: E402

main()
