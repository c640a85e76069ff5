#!/usr/bin/env python3
"""Loads the DAG in jobs/airflow, and runs it once in this process.

In:  AIRFLOW_HOME with a database; NIGHTCAP_JOB, NIGHTCAP_OUTPUT, NIGHTCAP_SHARDS as the DAG reads them; nightcap on PATH
Out: on the last line {"errors": {file: why}, "state": of the DAG run, "tasks": [[task, map index, state, attempts], ...]}
"""

import datetime
import json
import pathlib

from airflow.dag_processing.dagbag import DagBag

bag = DagBag(str(pathlib.Path(__file__).parents[2] / "jobs/airflow"))
seen = {"errors": bag.import_errors, "state": None, "tasks": []}
if not bag.import_errors:
    dag = bag.dags["nightcap"]
    for task in dag.tasks:
        # No test waits for a minute.
        settings = task.partial_kwargs if task.is_mapped else vars(task)
        settings["retry_delay"] = datetime.timedelta(seconds=1)
    run = dag.test()
    seen["state"] = str(run.state)
    seen["tasks"] = sorted([ti.task_id, ti.map_index, str(ti.state), ti.try_number] for ti in run.get_task_instances())
print(json.dumps(seen))
