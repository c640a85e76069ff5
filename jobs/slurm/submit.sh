#!/usr/bin/env bash
# One night on Slurm: an array of shards, and behind it a job that publishes the run.
#
#   in:   the settings below, changed here or given in the environment; shard.sbatch and finalize.sbatch beside this file; nightcap on
#         PATH, and JOB, its model and OUTPUT where every node sees them
#   out:  one line with the run id and the ids of both jobs; the logs of all jobs in LOGS
#   exit: 0 submitted, 75 last night's jobs are still in the queue, anything else: see the message
#
# Shards that are missing at the end are submitted again by finalize.sbatch, which calls this file. By hand:
#   RUN_ID=r20261123t041500z ./submit.sh                  all shards of that run; those that are complete end at once
#   RUN_ID=r20261123t041500z ARRAY=3,7 ./submit.sh        shards 3 and 7 only
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export JOB=${JOB:-$PWD/job.toml}               # the job file
export OUTPUT=${OUTPUT:-$PWD/out}              # an absolute path or URI; takes the place of output.path
export SHARDS=${SHARDS:-8}                     # into how many shards the parts are divided
export AT_ONCE=${AT_ONCE:-$SHARDS}             # how many of them may run at the same time
export CPUS=${CPUS:-4}                         # of each shard
export MEMORY=${MEMORY:-8G}                    # of each shard
export TIME=${TIME:-04:00:00}                  # of one attempt of a shard; what it has not finished then, the next attempt goes on with
export GPUS=${GPUS:-0}                         # of each shard: 1 runs it on cuda:0
export NAME=${NAME:-nightcap}                  # of the array; one name for each OUTPUT
export LOGS=${LOGS:-$PWD/logs}
export OPTIONS=${OPTIONS:-}                    # for sbatch, such as "--partition=night --account=images"
export ATTEMPTS=${ATTEMPTS:-10}                # how often one shard starts, before it counts as missing
export ROUNDS=${ROUNDS:-3}                     # how often missing shards are submitted
export ROUND=${ROUND:-1}
read -ra options <<<"$OPTIONS"

if [ "$ROUND" = 1 ] && [ -n "$(squeue --me --noheader --name="$NAME,$NAME-finalize")" ]; then
    echo "submit.sh: jobs called $NAME are still in the queue; nothing was submitted" >&2
    exit 75
fi
if [ -z "${RUN_ID:-}" ]; then
    RUN_ID=r$(date -u +%Y%m%dt%H%M%Sz)
    # The parts that an unfinished night has made count from now on, and this run makes the rest. In the first night there is no OUTPUT.
    runs=$(nightcap status "$OUTPUT") || true
    while read -r left _ _ parts _; do
        if [ "$parts" = 0 ]; then
            nightcap discard "$OUTPUT" --run-id "$left" >&2
        else
            # 1: published, with too many failed rows.
            nightcap finalize "$OUTPUT" --run-id "$left" --partial >&2 || { status=$?; [ "$status" = 1 ] || exit "$status"; }
        fi
    done < <(awk '$3 == "unfinished"' <<<"$runs")
fi
export RUN_ID
mkdir -p "$LOGS"

resources=(--cpus-per-task="$CPUS" --mem="$MEMORY" --time="$TIME")
if [ "$GPUS" != 0 ]; then resources+=(--gpus-per-task="$GPUS"); fi
ARRAY_ID=$(sbatch --parsable --job-name="$NAME" --array="${ARRAY:-0-$((SHARDS - 1))}%$AT_ONCE" "${resources[@]}" "${options[@]}" \
    --output="$LOGS/$RUN_ID.%a.log" "$here/shard.sbatch")
ARRAY_ID=${ARRAY_ID%%;*}   # without the name of the cluster
# afterany: finalize looks itself whether every part is there. With afterok, one task that was killed would cancel it.
export ARRAY_ID SUBMIT=$here/submit.sh
finalize=$(sbatch --parsable --job-name="$NAME-finalize" --dependency="afterany:$ARRAY_ID" "${options[@]}" \
    --output="$LOGS/$RUN_ID.finalize.log" "$here/finalize.sbatch")
echo "run $RUN_ID round $ROUND array $ARRAY_ID finalize ${finalize%%;*}"
