#!/usr/bin/env python3
"""Prints the newest published run of an output as a table: id, caption, similarity or error.

In:  OUTPUT, the folder that `nightcap run` wrote.
Out: a table at most 120 columns wide on stdout.
"""

import json
import pathlib
import sys
import textwrap

import duckdb

WIDTH = 120
SIMILARITY = 10  # columns that the similarity takes


def newest_run(output):
    """The record of the published run with the highest run_seq."""
    records = [json.loads(path.read_text()) for path in output.glob("_nightcap/published/*.json")]
    if not records:
        sys.exit(f"expected a published run in {output}, found none\nhint: nightcap run JOB.toml")
    return max(records, key=lambda record: record["run_seq"])


def describe(row):
    """What one row has to say, and its similarity if there is one."""
    if row["status"] == "failed":
        return f"[{row['error_kind']}] {row['error_message']}", ""
    similarity = row.get("caption_similarity")
    return row.get("caption") or "", "" if similarity is None else f"{similarity:.3f}"


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: show_captions.py OUTPUT")
    output = pathlib.Path(sys.argv[1])
    run = newest_run(output)
    parts = str(output / f"run={run['run']}" / "part-*.parquet")
    rows = duckdb.execute("SELECT * FROM read_parquet(?) ORDER BY id", [parts])
    names = [column[0] for column in rows.description]
    table = [dict(zip(names, values)) for values in rows.fetchall()]

    first = max((len(row["id"]) for row in table), default=2)
    middle = WIDTH - first - SIMILARITY - 4
    print(f"\nrun {run['run']}: {run['rows']} rows, {run['ok']} ok, {run['failed']} failed\n")
    print(f"{'id':<{first}}  {'caption':<{middle}}  {'similarity':>{SIMILARITY}}")
    print(f"{'-' * first}  {'-' * middle}  {'-' * SIMILARITY}")
    for row in table:
        words, similarity = describe(row)
        lines = textwrap.wrap(words, middle) or [""]
        print(f"{row['id']:<{first}}  {lines[0]:<{middle}}  {similarity:>{SIMILARITY}}".rstrip())
        for line in lines[1:]:
            print(f"{'':<{first}}  {line}")


if __name__ == "__main__":
    main()
