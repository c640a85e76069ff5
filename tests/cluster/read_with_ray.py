#!/usr/bin/env python3
"""Reads an OUTPUT as `jobs/ray/read_output.py` does.

In:  OUTPUT; RAY_ADDRESS
Out: {"published": [[id, run_seq], ...], "newest": [[id, run_seq, caption], ...], "types": {column: Arrow type}}
"""

import json
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "jobs/ray"))

import ray

ray.init(logging_level=logging.ERROR, log_to_driver=False)

from read_output import newest, published  # noqa: E402

output = sys.argv[1]
rows = published(output)
seen = {
    "published": sorted([row["id"], row["run_seq"]] for row in rows.select_columns(["id", "run_seq"]).iter_rows()),
    "newest": sorted([row["id"], row["run_seq"], row["caption"]] for row in newest(output, "id", ["caption"], partitions=2).iter_rows()),
    "types": {name: str(kind) for name, kind in zip(rows.schema().names, rows.schema().types)},
}
print(json.dumps(seen))
