#!/usr/bin/env bash
# Runs one service for as long as the one who started it lives, and leaves nothing behind.
#
#   run.sh LOG_FILE WORK_DIR COMMAND [ARGUMENT]...
#
# Standard input is a pipe whose other end only the starter holds. The kernel closes it however the starter ends
# (return, panic, SIGKILL), so one path serves both the orderly stop and the crash: end of input → SIGTERM to the
# service's process group → SIGKILL after 5 s → WORK_DIR removed → exit. A process that the service put into a group of
# its own is found by TIDELOG_SERVICE_RUN in its environment (Linux). Exits too when the service ends by itself.
# $TIDELOG_SERVICE_CLEANUP, if set, is a command line run at the end.
set -u
log=$1 work=$2
shift 2
exec 3<&0 </dev/null >>"$log" 2>&1
# The starter may be killed by a signal to its terminal or group; the stop happens here all the same.
trap '' HUP INT TERM

# Job control gives each background job a process group of its own: the group is what gets killed.
set -m
export TIDELOG_SERVICE_RUN=$work
(
    trap - HUP INT TERM
    cd "$work" && exec "$@" 3<&-
) &
service=$!
(
    cat <&3
    kill -TERM -- "-$service"
    sleep 5
    kill -KILL -- "-$service"
) >/dev/null 2>&1 &
stopper=$!

wait "$service"
echo "run.sh: the service ended with status $?"
{ kill -KILL -- "-$stopper" && wait "$stopper"; } 2>/dev/null
kill -KILL -- "-$service" 2>/dev/null
for process in /proc/[0-9]*; do
    # Only processes that inherited this very run's mark, and not this script itself.
    [ "${process#/proc/}" != $$ ] && grep -qszxF "TIDELOG_SERVICE_RUN=$work" "$process/environ" &&
        kill -KILL "${process#/proc/}"
done 2>/dev/null
[ -z "${TIDELOG_SERVICE_CLEANUP:-}" ] || eval "$TIDELOG_SERVICE_CLEANUP"
# A killed process may still finish the write it was in.
rm -rf "$work" || { sleep 0.2 && rm -rf "$work"; }
# Logs of a day ago and older have been read or never will be.
find "${log%/*}" -name '*.log' -mtime +0 -delete
