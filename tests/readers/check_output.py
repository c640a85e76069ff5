#!/usr/bin/env python3
"""Opens an output with DuckDB and Polars as its users would, and checks what they rely on.

In:  OUTPUT, the folder that `nightcap run` wrote; --key, the manifest's key column.
Out: {"rows", "ok", "failed", "columns": {name: DuckDB type}} as JSON on stdout, over all published runs;
     exit status 1 and the first violation on stderr.
"""

import argparse
import collections
import json
import pathlib
import re
import sys

import duckdb
import polars as pl

# nightcap's own columns in their order: the type in DuckDB, in Polars, and what they are there for.
# DuckDB has no fixed-size lists in Parquet and reads half floats as floats.
Column = collections.namedtuple("Column", "duckdb polars group")
VECTOR = "vector"  # Array(Float32 or Float16, D) in Polars
COLUMNS = {
    "status": Column("VARCHAR", pl.String, "always"),
    "error_stage": Column("VARCHAR", pl.String, "always"),
    "error_kind": Column("VARCHAR", pl.String, "always"),
    "error_message": Column("VARCHAR", pl.String, "always"),
    "caption": Column("VARCHAR", pl.String, "caption"),
    "caption_logprob": Column("FLOAT", pl.Float32, "caption"),
    "caption_tokens": Column("INTEGER", pl.Int32, "caption"),
    "caption_finish": Column("VARCHAR", pl.String, "caption"),
    "caption_similarity": Column("FLOAT", pl.Float32, "optional"),
    "caption_repeats": Column("BOOLEAN", pl.Boolean, "caption"),
    "image_embedding": Column("FLOAT[]", VECTOR, "optional"),
    "text_embedding": Column("FLOAT[]", VECTOR, "optional"),
    "fused_embedding": Column("FLOAT[]", VECTOR, "optional"),
    "image_text_similarity": Column("FLOAT", pl.Float32, "optional"),
    "image_text_match": Column("FLOAT", pl.Float32, "optional"),
    "image_width": Column("INTEGER", pl.Int32, "image"),
    "image_height": Column("INTEGER", pl.Int32, "image"),
    "content_hash": Column("VARCHAR", pl.String, "image"),
    "content_signature": Column("VARCHAR", pl.String, "always"),
    "caption_fingerprint": Column("VARCHAR", pl.String, "caption"),
    "embedding_fingerprint": Column("VARCHAR", pl.String, "optional"),
    "run_seq": Column("BIGINT", pl.Int64, "always"),
}
ERRORS = ("error_stage", "error_kind", "error_message")
VECTORS = ("image_embedding", "text_embedding", "fused_embedding")
NEVER_NULL = ("status", "content_signature", "caption_fingerprint", "embedding_fingerprint", "run_seq")
CAPTION = ("caption", "caption_logprob", "caption_tokens", "caption_finish", "caption_similarity", "caption_repeats")
NULL_IF_FAILED = (*CAPTION, *VECTORS, "image_text_similarity", "image_text_match")
SET_IF_OK = (*CAPTION, "image_embedding", "image_width", "image_height", "content_hash")


def expect(holds, what, found):
    """Stops with a message unless `holds`."""
    if not holds:
        sys.exit(f"check_output: expected {what}, found {found}")


def quoted(name):
    """A column name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


class Output:
    """The published rows of one output, in DuckDB (the view `published`) and in Polars (the frame `frame`)."""

    def __init__(self, folder):
        paths = sorted(folder.glob("_nightcap/published/*.json"))
        records = [json.loads(path.read_text()) for path in paths]
        replaced = {run for record in records for run in record.get("supersedes", [])}
        self.records = [record for record in records if record["run"] not in replaced]
        expect(self.records, "a published run", f"none in {folder}")
        parts = str(folder / "run=*" / "part-*.parquet")
        finished = ", ".join(f"'{record['run']}'" for record in self.records)

        self.db = duckdb.connect()
        self.db.execute(
            f"CREATE VIEW published AS SELECT * FROM '{parts}' WHERE run IN ({finished})",
        )
        self.types = {name: kind for name, kind, *_ in self.db.execute("DESCRIBE published").fetchall()}

        runs = pl.LazyFrame({"run": [record["run"] for record in self.records]})
        self.frame = pl.scan_parquet(parts, hive_partitioning=True).join(runs, on="run", how="semi").collect()

    def has(self, name):
        """Whether the output has this column."""
        return name in self.types

    def count(self, where):
        """Rows for which the SQL predicate holds."""
        return self.db.execute(f"SELECT count(*) FROM published WHERE {where}").fetchone()[0]

    def none(self, where, what):
        """Expects that no row fulfils the SQL predicate."""
        found = self.count(where)
        expect(found == 0, what, f"{found} rows where {where}")


def check_schema(output, key):
    """Names, order and types, in both readers."""
    expect(output.has(key), f"the key column {key}", list(output.types))
    expect(output.types.get("run") == "VARCHAR", "run as VARCHAR from the folder names", output.types.get("run"))
    expect(output.frame.schema.get("run") == pl.String, "run as String in Polars", output.frame.schema.get("run"))
    expect(set(output.types) == set(output.frame.columns), "equal columns in both readers", output.frame.columns)

    own = [name for name in output.types if name in COLUMNS]
    expect(own == [name for name in COLUMNS if name in own], "nightcap's columns in their documented order", own)
    last = [name for name in output.types if name != "run"][-len(own) :]
    expect(last == own, "nightcap's columns after the carried ones", list(output.types))
    groups = {COLUMNS[name].group for name in own} | {"always"}
    if output.has("image_embedding") or output.has("caption"):
        groups.add("image")
    for name, column in COLUMNS.items():
        if column.group in groups - {"optional"}:
            expect(output.has(name), f"the column {name}", list(output.types))
    if any(output.has(name) for name in VECTORS):
        expect(output.has("embedding_fingerprint"), "the column embedding_fingerprint", list(output.types))

    for name in own:
        found, dtype = output.types[name], output.frame.schema[name]
        expect(found == COLUMNS[name].duckdb, f"{name} as {COLUMNS[name].duckdb} in DuckDB", found)
        if COLUMNS[name].polars == VECTOR:
            right = isinstance(dtype, pl.Array) and dtype.inner in (pl.Float32, pl.Float16)
            expect(right, f"{name} as Array(Float32 or Float16, D) in Polars", dtype)
        else:
            expect(dtype == COLUMNS[name].polars, f"{name} as {COLUMNS[name].polars} in Polars", dtype)


def check_counts(output, key):
    """Each published run has the rows that its record says, each key once a run_seq, in both readers."""
    for record in output.records:
        run = record["run"]
        expect(re.fullmatch("[a-z][a-z0-9_-]*", run), "a run id like [a-z][a-z0-9_-]*", run)
        other = ">=" if record.get("supersedes") else "<>"  # a compaction keeps the run_seq of the rows it copies
        query = f"""SELECT count(*), count(*) FILTER (status = 'ok'), count(*) FILTER (status = 'failed'),
                           count(DISTINCT ({quoted(key)}, run_seq)), count(*) FILTER (run_seq {other} {int(record["run_seq"])})
                    FROM published WHERE run = ?"""
        rows, ok, failed, keys, strangers = output.db.execute(query, [run]).fetchone()
        recorded = (record["rows"], record["ok"], record["failed"])
        expect((rows, ok, failed) == recorded, f"rows, ok, failed = {recorded} in run {run}", (rows, ok, failed))
        expect(ok + failed == rows, f"status ok or failed in each row of run {run}", f"{rows - ok - failed} others")
        expect(keys == rows, f"each key once a run_seq in run {run}", f"{rows} rows with {keys} pairs")
        expect(strangers == 0, f"no run_seq {other} {record['run_seq']} in run {run}", f"{strangers} such rows")
    total = output.count("true")
    expect(output.frame.height == total, f"{total} rows in Polars, as in DuckDB", output.frame.height)


def check_nulls(output):
    """Nulls exactly where they are documented, and values within their ranges."""
    for name in filter(output.has, NEVER_NULL):
        output.none(f"{name} IS NULL", f"{name} never null")
    for name in ERRORS:
        output.none(f"status = 'ok' AND {name} IS NOT NULL", f"{name} null in rows that are ok")
        output.none(f"status = 'failed' AND {name} IS NULL", f"{name} set in failed rows")
    for name in filter(output.has, NULL_IF_FAILED):
        output.none(f"status = 'failed' AND {name} IS NOT NULL", f"{name} null in failed rows")
    for name in filter(output.has, SET_IF_OK):
        output.none(f"status = 'ok' AND {name} IS NULL", f"{name} set in rows that are ok")
    ranges = {
        "caption_finish": "caption_finish IN ('eos', 'stop', 'length')",
        "caption_tokens": "caption_tokens > 0",
        "caption_logprob": "caption_logprob <= 0",
        "caption_similarity": "abs(caption_similarity) <= 1.0001",
        "image_text_similarity": "abs(image_text_similarity) <= 1.0001",
        "image_text_match": "image_text_match BETWEEN 0 AND 1",
        "image_width": "image_width > 0",
        "image_height": "image_height > 0",
        "content_hash": "regexp_full_match(content_hash, '[0-9a-f]{64}')",
    }
    for name, holds in ranges.items():
        if output.has(name):  # `IS FALSE` lets nulls pass; NaN compares greater than any number
            output.none(f"({holds}) IS FALSE", f"{holds} where it is not null")


def check_vectors(output, key, name):
    """Unit norm, and a cosine query that finds the row it starts from, equal in both readers."""
    dtype = output.frame.schema[name]
    width, tolerance = dtype.size, 1e-4 if dtype.inner == pl.Float32 else 2e-3
    vector = f"{name}::FLOAT[{width}]"
    norm = f"sqrt(array_inner_product({vector}, {vector}))"
    output.none(f"{name} IS NOT NULL AND NOT abs({norm} - 1) <= {tolerance}", f"{name} of length 1")
    if output.count(f"{name} IS NOT NULL") == 0:
        return

    # Vectors are compared within one embedding space only.
    run, row_id, space, values = output.db.execute(
        f"""SELECT run, {quoted(key)}, embedding_fingerprint, {name}
            FROM published WHERE {name} IS NOT NULL ORDER BY run_seq DESC, 2 LIMIT 1""",
    ).fetchone()
    ranking = output.db.execute(
        f"""SELECT run, {quoted(key)}, array_cosine_similarity({vector}, ?::FLOAT[{width}]) AS similarity
            FROM published WHERE {name} IS NOT NULL AND embedding_fingerprint = ?
            ORDER BY similarity DESC""",
        [values, space],
    ).fetchall()
    by_row = {(row[0], row[1]): row[2] for row in ranking}
    own, best = by_row[run, row_id], ranking[0][2]
    expect(abs(own - 1) <= tolerance, f"similarity 1 of {name} of {row_id} with itself", own)
    expect(best - own <= tolerance, f"{row_id} nearest to its own {name}", f"{ranking[0][1]} with {best}")

    space_rows = output.frame.filter(pl.col(name).is_not_null() & (pl.col("embedding_fingerprint") == space))
    query = pl.lit(list(values), dtype=pl.Array(pl.Float32, width))
    dot = (pl.col(name).cast(pl.Array(pl.Float32, width)) * query).arr.sum()
    for row in space_rows.select("run", key, dot.alias("similarity")).iter_rows():
        theirs = by_row[row[0], row[1]]
        expect(abs(row[2] - theirs) <= 2 * tolerance, f"similarity {theirs} of {row[1]} in Polars too", row[2])


def check_pair_similarity(output):
    """image_text_similarity is the cosine of the row's two vectors, and null if one of them is."""
    if not all(map(output.has, ("image_text_similarity", "image_embedding", "text_embedding"))):
        return
    width = output.frame.schema["image_embedding"].size
    both = "image_embedding IS NOT NULL AND text_embedding IS NOT NULL"
    output.none(f"(image_text_similarity IS NOT NULL) <> ({both})", "image_text_similarity where both vectors are")
    cosine = f"array_cosine_similarity(image_embedding::FLOAT[{width}], text_embedding::FLOAT[{width}])"
    output.none(f"abs({cosine} - image_text_similarity) > 1e-3", "image_text_similarity as the vectors' cosine")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--key", default="id")
    arguments = parser.parse_args()

    output = Output(arguments.output)
    check_schema(output, arguments.key)
    check_counts(output, arguments.key)
    check_nulls(output)
    for name in filter(output.has, VECTORS):
        check_vectors(output, arguments.key, name)
    check_pair_similarity(output)

    ok = output.count("status = 'ok'")
    rows = output.count("true")
    print(json.dumps({"rows": rows, "ok": ok, "failed": rows - ok, "columns": output.types}))


if __name__ == "__main__":
    main()
