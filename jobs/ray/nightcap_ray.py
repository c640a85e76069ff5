#!/usr/bin/env python3
"""Runs one night on a Ray cluster that is there already: a Ray task for each shard, then one that publishes the run.

    RAY_ADDRESS=HOST:6379 python nightcap_ray.py job.toml s3://bucket/out --shards 64 --num-cpus 8 --num-gpus 1
    ray job submit --working-dir . -- python nightcap_ray.py job.toml s3://bucket/out --shards 64

In:   a job file and its OUTPUT, as every node of the cluster sees them; nightcap and ONNX Runtime on every node
Out:  the published record on stdout, progress on stderr
Exit: that of `nightcap finalize`; 2 as soon as one shard says that the job is wrong; 75 if shards are missing at the end: call it again
      with the run id that it printed

A worker or node that dies is replaced by Ray; a shard that ends with 75 is started again after a pause. Each shard has --attempts of both.
More shards than workers are best: what a shard has not begun, any free worker takes.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time

os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # the last lines of a shard that fails are like those of another one, and wanted

import ray  # noqa: E402

STOPPED, REFUSED = 75, 2


def nightcap(arguments, program, stdout=None):
    """Runs nightcap in a worker of Ray; its exit status, and with stdout=PIPE what it wrote. A task that is cancelled stops it."""
    process = subprocess.Popen([program, *arguments], stdout=stdout, text=True)
    try:
        written, _ = process.communicate()
    except BaseException:  # KeyboardInterrupt is how Ray cancels a task
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    # Ended by a signal, perhaps because memory ran out: what is missing is made by the next attempt.
    return (STOPPED if process.returncode < 0 else process.returncode), written


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", help="the job file")
    parser.add_argument("output", help="an absolute path or a URI; takes the place of its output.path")
    parser.add_argument("--run-id", help="a run to go on with; default: a new one, named after the time")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--num-cpus", type=int, default=4, help="of each shard; nightcap uses as many threads")
    parser.add_argument("--num-gpus", type=int, choices=[0, 1], default=0, help="of each shard")
    parser.add_argument("--memory", type=int, default=4 << 30, help="of each shard, in bytes")
    parser.add_argument("--attempts", type=int, default=10, help="how often one shard starts")
    parser.add_argument("--pause", type=float, default=60, help="seconds before a shard that ended with 75 starts again")
    parser.add_argument("--nightcap", default="nightcap", metavar="PROGRAM")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as of nightcap run")
    return parser.parse_args()


def close_what_is_left(call, output):
    """Publishes the parts that unfinished nights have made, so that this one makes only the rest."""
    status, written = ray.get(call(["status", output, "--json"]))
    # Without an OUTPUT, in the first night, the status is 2.
    runs = json.loads(written)["runs"] if written else []
    for left in [run for run in runs if run["state"] == "unfinished"]:
        how = ["finalize", "--partial"] if left["parts_present"] else ["discard"]
        status, _ = ray.get(call([how[0], output, "--run-id", left["run"], *how[1:]]))
        if status not in (0, 1):
            sys.exit(status)


def run_shards(options, start):
    """Runs every shard until it has ended with 0 or has used up its attempts; the numbers of those that have not ended with 0."""
    attempts = dict.fromkeys(range(options.shards), 1)
    running = {start(shard): shard for shard in attempts}
    waiting, missing, finished = [], [], 0
    while running or waiting:
        now = time.monotonic()
        for due, shard in [entry for entry in waiting if entry[0] <= now]:
            waiting.remove((due, shard))
            running[start(shard)] = shard
        ready, _ = ray.wait(list(running), timeout=1) if running else ([], time.sleep(1))
        for task in ready:
            shard = running.pop(task)
            try:
                status, _ = ray.get(task)
            except ray.exceptions.RayError as error:
                print(f"shard {shard}: {error}", file=sys.stderr)
                status = STOPPED
            if status == REFUSED:
                for other in running:
                    ray.cancel(other)
                sys.exit(REFUSED)
            if status == STOPPED and attempts[shard] < options.attempts:
                attempts[shard] += 1
                waiting.append((time.monotonic() + options.pause, shard))
            elif status == STOPPED:
                missing.append(shard)
            else:
                finished += 1
            print(f"shard {shard} ended with {status}; {finished} of {options.shards} finished", file=sys.stderr)
    return missing


def main():
    options = arguments()
    # Ray says on stdout what its workers and daemons say; here that is kept for the record.
    stdout = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=True)
    # What a dead worker did is done again by Ray; what nightcap says decides `run_shards`.
    remote = ray.remote(max_retries=options.attempts, retry_exceptions=False)(nightcap)
    resources = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus, "memory": options.memory}

    def call(words):
        return remote.options(num_cpus=1).remote(words, options.nightcap, subprocess.PIPE)

    run = options.run_id
    if not run:
        close_what_is_left(call, options.output)
        run = datetime.datetime.now(datetime.UTC).strftime("r%Y%m%dt%H%M%Sz")
    print(f"run {run}", file=sys.stderr)
    settings = [f"output.path={options.output}", f"runtime.threads={options.num_cpus}", *options.set]
    if options.num_gpus:
        settings.insert(0, 'runtime.devices=["cuda:0"]')

    def start(shard):
        words = ["run", options.job, "--run-id", run, "--shard", f"{shard}/{options.shards}"]
        words += [word for setting in settings for word in ("--set", setting)]
        return remote.options(name=f"nightcap {run} {shard}", **resources).remote(words, options.nightcap)

    missing = run_shards(options, start)
    if missing:
        print(f"not finished: shards {missing} of run {run}", file=sys.stderr)
    status, written = ray.get(call(["finalize", options.output, "--run-id", run]))
    stdout.write(written or "")
    stdout.close()
    sys.exit(status)


if __name__ == "__main__":
    main()
