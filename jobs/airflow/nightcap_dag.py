"""A night on Airflow: a task for each shard, then one that publishes the run.

Where the tasks run is Airflow's affair: with Celery or Kubernetes executors, every worker needs nightcap, ONNX Runtime and access to JOB
and OUTPUT. The run is named after the time that the DAG run is for, so clearing tasks goes on with the same run.
"""

import json
import os
import subprocess

import pendulum
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, BaseOperator, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

JOB = os.environ.get("NIGHTCAP_JOB", "/srv/nightcap/job.toml")
OUTPUT = os.environ.get("NIGHTCAP_OUTPUT", "s3://bucket/out")  # takes the place of output.path
SHARDS = int(os.environ.get("NIGHTCAP_SHARDS", "8"))
RUN = "r{{ (logical_date or dag_run.run_after) | ts_nodash | lower }}"


class Nightcap(BaseOperator):
    """Runs one command of nightcap. 75 is tried again; 1 and 2 are not, because trying changes nothing."""

    template_fields = ("words",)

    def __init__(self, *, words, **settings):
        super().__init__(**settings)
        self.words = words

    def execute(self, context):
        self.hook = SubprocessHook()
        status = self.hook.run_command(["nightcap", *self.words]).exit_code
        if status in (1, 2):
            raise AirflowFailException(f"nightcap ended with status {status}; its log says why")
        if status:
            raise AirflowException(f"nightcap ended with status {status}; it is run again")

    def on_kill(self):
        self.hook.send_sigterm()


@task
def publish_what_is_left(output, tonight):
    """Publishes the parts that unfinished nights have made, so that this one makes only the rest. In the first night there is no OUTPUT."""
    written = subprocess.run(["nightcap", "status", output, "--json"], stdout=subprocess.PIPE, check=False).stdout
    for left in json.loads(written)["runs"] if written else []:
        if left["state"] == "unfinished" and left["run"] != tonight:
            words = ["finalize", output, "--partial"] if left["parts_present"] else ["discard", output]
            status = subprocess.run(["nightcap", *words, "--run-id", left["run"]], check=False).returncode
            if status not in (0, 1):  # 1: published, with too many failed rows
                raise AirflowException(f"nightcap ended with status {status} for the earlier run {left['run']}")


with DAG(
    dag_id="nightcap",
    schedule="0 22 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 10,
        "retry_delay": pendulum.duration(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": pendulum.duration(minutes=10),
    },
):
    shards = Nightcap.partial(task_id="shard").expand(
        words=[
            ["run", JOB, "--run-id", RUN, "--shard", f"{shard}/{SHARDS}", "--set", f"output.path={OUTPUT}"]
            for shard in range(SHARDS)
        ]
    )
    # Also if a shard has failed: finalize says which part is missing, with 75.
    publish = Nightcap(task_id="finalize", words=["finalize", OUTPUT, "--run-id", RUN], trigger_rule="all_done", retries=2)
    publish_what_is_left(OUTPUT, RUN) >> shards >> publish
