#!/bin/sh
# What a pod does: the parts of its shard, then an attempt to publish the run. The last pod to finish its shard finds every part there; for
# the others, finalize says 75 because parts are missing, and that is no failure.
#
# in:   JOB_COMPLETION_INDEX, RUN_ID, SHARDS, OUTPUT, perhaps DEVICE; /job/job.toml (or JOB)
# exit: as cronjob.yaml expects it
set -u
child='' stopped=''

# Process 1 of a container gets SIGTERM only if it asks for it, and has to hand it on.
trap 'stopped=yes; [ -z "$child" ] || kill -TERM "$child"' TERM
run() {
    [ -z "$stopped" ] || exit 75
    "$@" &
    child=$!
    wait "$child"
    status=$?
    if [ -n "$stopped" ]; then # `wait` has ended because of the signal
        wait "$child"
        status=$?
    fi
    child=''
    return "$status"
}

# What an unfinished night has made counts from now on, and this one makes the rest. If another pod plans before this is done, some rows
# are computed again. In the first night there is no OUTPUT.
if [ "$JOB_COMPLETION_INDEX" = 0 ]; then
    runs=$(nightcap status "$OUTPUT")
    echo "$runs" | awk -v run="$RUN_ID" '$3 == "unfinished" && $1 != run { print $1, $4 }' | while read -r left parts; do
        if [ "$parts" = 0 ]; then
            nightcap discard "$OUTPUT" --run-id "$left"
        else
            nightcap finalize "$OUTPUT" --run-id "$left" --partial
        fi
    done
fi

set -- "${JOB:-/job/job.toml}" --run-id "$RUN_ID" --shard "/$SHARDS" --set "output.path=$OUTPUT"
if [ -n "${DEVICE:-}" ]; then set -- "$@" --set "runtime.devices=[\"$DEVICE\"]"; fi
run nightcap run "$@" || exit

said=$(mktemp)
run nightcap finalize "$OUTPUT" --run-id "$RUN_ID" 2>"$said"
status=$?
cat "$said" >&2
# Are parts missing, or did the storage fail? Only in the first case another pod publishes the run.
if [ "$status" = 75 ] && grep -q 'the first missing one is' "$said"; then exit 0; fi
exit "$status"
