#!/usr/bin/env python3
"""Answers, again and again, what readers see of an OUTPUT through the documented views.

In:  one JSON object a line on stdin: {"folder": OUTPUT on this disk, "sql": the views in SQL, "python": the views in Polars}, in
     which the views already read that folder. The key column is `id`.
Out: one JSON object a line on stdout:
     {"published": [[run, id, run_seq], ...], "newest" and "last_good": [[id, run_seq, status, caption], ...],
      "parts": {run: rows in its parts, published or not}, "problem": null, or why a reader fails or the two disagree}.
"""

import contextlib
import glob
import io
import json
import sys

import duckdb
import polars as pl

VIEW = ["id", "run_seq", "status", "caption"]
PUBLISHED = ["run", "id", "run_seq"]


def rows_in_parts(folder):
    """Rows of every run's parts, with or without a record that publishes it."""
    parts = f"{folder}/run=*/part-*.parquet"
    if not glob.glob(parts):
        return {}
    query = f"SELECT run, count(*) FROM read_parquet('{parts}', hive_partitioning = true) GROUP BY run"
    return dict(duckdb.connect().execute(query).fetchall())


def in_duckdb(sql):
    """The views as DuckDB reads them."""
    db = duckdb.connect()
    db.execute(sql)
    read = lambda view, columns: sorted(db.execute(f"SELECT {', '.join(columns)} FROM {view}").fetchall())
    return read("published", PUBLISHED), read("newest", VIEW), read("last_good", VIEW)


def in_polars(python):
    """The same as Polars reads them."""
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(python, names)  # noqa: S102, a block of the documentation
    read = lambda frame, columns: sorted(frame.select(columns).collect().rows())
    return read(names["rows"], PUBLISHED), read(names["newest"], VIEW), read(names["last_good"], VIEW)


def look(folder, sql, python):
    """What is to be seen now."""
    seen = {"published": [], "newest": [], "last_good": [], "parts": {}, "problem": None}
    if not glob.glob(f"{folder}/_nightcap/published/*.json"):
        return seen  # the views need one published run
    try:
        seen["parts"] = rows_in_parts(folder)
        (published, newest, last_good), polars = in_duckdb(sql), in_polars(python)
        seen |= {"published": published, "newest": newest, "last_good": last_good}
        for view, ours, theirs in zip(("published", "newest", "last_good"), (published, newest, last_good), polars):
            if ours != theirs:
                more, less = ([row for row in a if row not in b] for a, b in ((ours, theirs), (theirs, ours)))
                seen["problem"] = f"`{view}` has {len(ours)} rows in DuckDB, {len(theirs)} in Polars: {more[:3]}, {less[:3]}"
                break
    except (duckdb.Error, pl.exceptions.PolarsError, OSError, ValueError) as error:
        seen["problem"] = f"a reader fails: {error}"
    return seen


def main():
    for line in sys.stdin:
        print(json.dumps(look(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
