#!/usr/bin/env python3
"""Reads two OUTPUTs as `jobs/ray/read_output.py` does.

In:  OUTPUT, OUTPUT; RAY_ADDRESS
Out: on the last line {"published": [[id, run], ...] of the first, "newest": [[id, caption], ...] of the second,
     "types": {column: Arrow type} of the first}
"""

import json
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "jobs/ray"))

import ray

ray.init(logging_level=logging.ERROR, log_to_driver=False)

from read_output import newest, published  # noqa: E402

rows = published(sys.argv[1])
last = newest(sys.argv[2], "id", ["caption"], partitions=2)
seen = {
    "published": sorted([row["id"], row["run"]] for row in rows.select_columns(["id", "run"]).iter_rows()),
    "newest": sorted([row["id"], row["caption"]] for row in last.iter_rows()),
    "types": {name: str(kind) for name, kind in zip(rows.schema().names, rows.schema().types)},
}
print(json.dumps(seen))
