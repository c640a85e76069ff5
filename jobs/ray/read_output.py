"""The rows of an OUTPUT as a dataset of Ray Data.

    from read_output import newest, published
    published("s3://bucket/out")       every row of the runs that count, with the column `run`
    newest("s3://bucket/out", "id")    the newest row of each key
"""

import json
import os

import pyarrow.fs
import ray.data
from ray.data.datasource.partitioning import PathPartitionFilter


def published(output, columns=None):
    """The rows of all runs that count. `columns` should name only what is needed: vectors are most of the bytes."""
    if "://" in output:
        filesystem, root = pyarrow.fs.FileSystem.from_uri(output)
    else:
        filesystem, root = pyarrow.fs.LocalFileSystem(), os.path.abspath(output)
    listed = filesystem.get_file_info(pyarrow.fs.FileSelector(f"{root}/_nightcap/published"))
    records = [json.loads(filesystem.open_input_stream(file.path).read()) for file in listed if file.path.endswith(".json")]
    # A compaction has replaced these; their files may still be there.
    replaced = {run for record in records for run in record.get("supersedes", [])}
    # Runs without rows have no folder; a run that was closed early may have parts without rows.
    runs = {record["run"] for record in records if record["run"] not in replaced and record["rows"]}
    if not runs:
        raise ValueError(f"{output}: expected a published run with rows, found none")
    # One folder and a filter, not a list of folders: Ray's threads may fail when they begin with several (2.60, `HTTPFileSystem`).
    only = PathPartitionFilter.of(lambda partition: partition.get("run") in runs, style="hive", base_dir=root)
    return ray.data.read_parquet(
        root, filesystem=filesystem, columns=columns, file_extensions=["parquet"], partition_filter=only
    )


def newest(output, key, columns=None, partitions=None):
    """The newest row of each key, even if it failed. It moves all rows between the workers: for a large OUTPUT, `nightcap compact` it first
    and take the rows of the compacted run."""
    wanted = None if columns is None else sorted({key, "run_seq", *columns})

    def last(rows):
        return rows.sort_by([("run_seq", "descending")]).slice(0, 1)

    return published(output, wanted).groupby(key, num_partitions=partitions).map_groups(last, batch_format="pyarrow")
