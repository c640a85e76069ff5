//! `input.where`: what may stand in it, and that a hostile one costs neither memory nor the process.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, TimestampMicrosecondArray};
use nightcap::manifest::{Manifest, filter};
use nightcap::storage::{DEFAULT_RETRIES, DEFAULT_TIMEOUT, Location, Storage, StorageSettings};

use crate::common::{Workplace, peak_memory, strings, write_parquet};

/// A manifest of `rows` rows: `id` (text), `n` (i64), `x` (f64), `ts` (timestamp), `name` with a space (text).
fn manifest(workplace: &Workplace, rows: i64) -> Manifest {
    let path = workplace.path("m.parquet");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", strings((0..rows).map(|row| Some(format!("row-{row}"))))),
        ("n", Arc::new(Int64Array::from_iter_values(0..rows))),
        ("x", Arc::new(Float64Array::from_iter_values((0..rows).map(|row| row as f64 / 2.0)))),
        ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values((0..rows).map(|row| row * 86_400_000_000)))),
        ("two words", strings((0..rows).map(|row| (row % 2 == 0).then_some("even")))),
    ];
    write_parquet(&path, columns, 1024);
    let storage = Arc::new(Storage::new(&StorageSettings::default(), DEFAULT_RETRIES, DEFAULT_TIMEOUT));
    Manifest::open_keys(&[Location::Local(path)], "input.key", "id", &storage).unwrap()
}

fn select(manifest: &Manifest, predicate: &str) -> Result<Vec<u32>, String> {
    let rows = filter::select(manifest, Some(predicate)).map_err(|error| error.to_string())?;
    Ok(rows[0].iter().collect())
}

#[test]
fn conditions_on_one_row_are_evaluated() {
    let workplace = Workplace::new();
    let manifest = manifest(&workplace, 10);
    let cases: [(&str, &[u32]); 33] = [
        ("n < 2", &[0, 1]),
        ("n BETWEEN 2 AND 3", &[2, 3]),
        ("n IN (1, 5, 100)", &[1, 5]),
        ("id NOT IN ('row-0', 'row-1') AND n <= 2", &[2]),
        ("id = 'row-3' OR id = 'it''s'", &[3]),
        ("id LIKE 'row-_' AND NOT n > 0", &[0]),
        ("id ILIKE 'ROW-1%'", &[1]),
        ("id ~ '^row-[78]$'", &[7, 8]),
        ("id RLIKE '9$'", &[9]),
        ("regexp_like(id, '9$')", &[9]),
        ("\"two words\" IS NULL AND n < 4", &[1, 3]),
        ("\"two words\" IS NOT NULL AND n < 4", &[0, 2]),
        ("coalesce(\"two words\", 'odd') = 'odd' AND n < 2", &[1]),
        ("upper(id) = 'ROW-4'", &[4]),
        ("lower(id) = 'row-4'", &[4]),
        ("length(id) = 5 AND n = 6", &[6]),
        ("starts_with(id, 'row-1')", &[1]),
        ("ends_with(id, '1')", &[1]),
        ("substr(id, 5) = '7'", &[7]),
        ("substring(id, 5, 1) = '7'", &[7]),
        ("left(id, 3) = 'row' AND right(id, 1) = '2'", &[2]),
        ("trim(id) = 'row-5'", &[5]),
        ("strpos(id, '8') > 0", &[8]),
        ("abs(n - 5) < 1", &[5]),
        ("floor(x) = 2", &[4, 5]),
        ("round(x + 0.1) = 5 AND ceil(x) = 5", &[9]),
        ("n % 5 = 4", &[4, 9]),
        ("mod(n, 5) = 4", &[4, 9]),
        ("CASE WHEN n > 5 THEN x > 4 ELSE false END", &[9]),
        ("CAST(id AS VARCHAR) = 'row-1' OR n::varchar = '2'", &[1, 2]),
        ("ts >= DATE '1970-01-09'", &[8, 9]),
        ("ts >= TIMESTAMP '1970-01-10 00:00:00'", &[9]),
        ("EXTRACT(day FROM ts) = 3", &[2]),
    ];
    for (predicate, expected) in cases {
        assert_eq!(select(&manifest, predicate).as_deref(), Ok(expected), "{predicate}");
    }
    // Long lists are no deep trees.
    let list: Vec<String> = (0..100_000).map(|number| format!("'row-{}'", number * 3)).collect();
    assert_eq!(select(&manifest, &format!("id IN ({})", list.join(", "))).as_deref(), Ok(&[0, 3, 6, 9][..]));
    let many: Vec<String> = (0..200).map(|number| format!("n <> {}", number + 3)).collect();
    assert_eq!(select(&manifest, &many.join(" AND ")).as_deref(), Ok(&[0, 1, 2][..]));
    // As deep as an expression may be.
    let sums = format!("n{} < 500", " + 1".repeat(497));
    assert_eq!(select(&manifest, &sums).as_deref(), Ok(&[0, 1, 2][..]));
    let nots = format!("{}n < 3", "NOT ".repeat(30));
    assert_eq!(select(&manifest, &nots).as_deref(), Ok(&[0, 1, 2][..]));
    let nested = format!("{}n < 3{}", "(".repeat(20), ")".repeat(20));
    assert_eq!(select(&manifest, &nested).as_deref(), Ok(&[0, 1, 2][..]));
}

/// Each is refused with a sentence that names `what`, and never reaches the evaluation.
#[test]
fn what_is_no_condition_on_one_row_is_refused_by_name() {
    let workplace = Workplace::new();
    let manifest = manifest(&workplace, 10);
    let deep = format!("{}n{} > 1", "(".repeat(5000), ")".repeat(5000));
    let deep_case = format!("{}true{}", "CASE WHEN n > 1 THEN ".repeat(2000), " ELSE false END".repeat(2000));
    let ands = vec!["n > 1"; 3000].join(" AND ");
    let nots = format!("{} n > 1", "NOT ".repeat(20_000));
    let minus = format!("n > {}1", "- ".repeat(20_000));
    let long_text = format!("id = '{}'", "x".repeat(100_000));
    let sums = format!("n > 1{}", " + 1".repeat(5000));
    let casts = format!("n{} = '1'", "::varchar".repeat(3000));
    let functions = format!("{}id{} = 'a'", "lower(".repeat(3000), ")".repeat(3000));
    let long = format!("id IN ({})", vec!["'abcdefgh'"; 400_000].join(","));
    let cases: Vec<(&str, &str)> = vec![
        ("rpad(id, 2000000000, 'x') = 'a'", "rpad"),
        ("lpad(id, 2000000000, 'x') = 'a'", "lpad"),
        ("LPAD (id, 2000000000, 'x') = 'a'", "lpad"),
        ("repeat(id, 2000000000) = 'a'", "repeat"),
        ("\"rpad\"(id, 2000000000, 'x') = 'a'", "rpad"),
        ("rpad.lower(id, 2000000000, 'x') = 'a'", "."),
        ("`rpad`(id, 20, 'x') = 'a'", "`"),
        ("concat(concat(id, id), concat(id, id)) = 'a'", "concat"),
        ("id || id = 'aa'", "||"),
        ("replace(id, 'r', 'xxxxxxxxxxxxxxxxxxxxxxxxx') = 'a'", "replace"),
        ("pow(n, 1000) > 1", "pow"),
        ("power(n, 1000) > 1", "power"),
        ("interval '1 foo' = ts", "interval"),
        ("ts > INTERVAL '1' DAY", "interval"),
        ("greatest() = 1", "greatest"),
        ("greatest(n, 1) = 1", "greatest"),
        ("least() = 1", "least"),
        ("id IN (SELECT id FROM other)", "select"),
        ("id IN (SELECT column_1 FROM read_csv('/etc/passwd'))", "select"),
        ("EXISTS (SELECT 1)", "exists"),
        ("id = (SELECT 'a')", "select"),
        ("id = ANY(ARRAY['a'])", "any"),
        ("n = 1; DROP TABLE x", ";"),
        ("n = 1 UNION SELECT 1", "union"),
        ("n = 1 FROM read_csv('/etc/passwd')", "from"),
        ("read_csv('/etc/passwd') = 1", "read_csv"),
        ("row_number() OVER (ORDER BY n) < 3", "row_number"),
        ("sum(n) OVER (PARTITION BY id) > 1", "sum"),
        ("max(n) = n", "max"),
        ("count(*) > 1", "count"),
        ("COLUMNS('.*') = 1", "columns"),
        ("*", "*"),
        ("n = 1 -- comment", "--"),
        ("n = 1 /* comment */", "/*"),
        ("id = $$a$$", "$"),
        ("id = E'a'", "E'"),
        ("id = X'61'", "X'"),
        ("id = \"unclosed", "\""),
        ("id = 'unclosed", "'"),
        ("[n][1] = 1", "["),
        ("{n: 1} = 1", "{"),
        ("strptime(id, '%Y') = ts", "strptime"),
        ("strftime(ts, '%Y') = id", "strftime"),
        ("unnest(n) = 1", "unnest"),
        ("string_to_array(id, '-') = 'a'", "string_to_array"),
        ("id ~ \"two words\"", "pattern"),
        ("regexp_like(id, lower(id))", "pattern"),
        ("n > 1 AS m", "as"),
        ("n = 1, n = 2", ","),
        ("", "nothing"),
        (" \n ", "nothing"),
        (&deep, "nest"),
        (&deep_case, "case"),
        (&ands, "operators"),
        (&nots, "operators"),
        (&minus, "operators"),
        (&sums, "operators"),
        (&casts, "operators"),
        (&functions, "nest"),
        (&long_text, "characters"),
        (&long, "characters"),
    ];
    for (predicate, what) in cases {
        let start: String = predicate.chars().take(60).collect();
        let error = select(&manifest, predicate).expect_err(&start);
        assert!(error.to_lowercase().contains(&what.to_lowercase()), "{start}: expected {what} in {error}");
        assert!(error.contains("`input.where` = ") && error.contains("\nhint: "), "{start}: {error}");
        assert!(!error.contains("panic") && error.len() < 2000, "{start}: {error}");
    }
}

/// Whatever is left to polars ends with rows or an error.
#[test]
fn no_predicate_panics() {
    let workplace = Workplace::new();
    let manifest = manifest(&workplace, 10);
    let regex = |pattern: &str| format!("id ~ '{pattern}'");
    let cases = [
        regex("(((a{100}){100}){100}){100}"),
        regex("\\w{1000}{100}"),
        regex("("),
        regex("(a+)+$"),
        "n / 0 = 1".into(),
        "n % 0 = 1".into(),
        "mod(n, 0) = 1".into(),
        "n * 9223372036854775807 > 0".into(),
        "- 9223372036854775808 = n".into(),
        "n = 99999999999999999999999999999999999999999999".into(),
        "n = 1e999999".into(),
        "abs(- 9223372036854775807 - 1) = n".into(),
        "substr(id, -9223372036854775807) = 'a'".into(),
        "substr(id, 9223372036854775807, 9223372036854775807) = 'a'".into(),
        "left(id, -9223372036854775807) = 'a'".into(),
        "right(id, 99999999999999999999) = 'a'".into(),
        "round(x, 4294967295) = 1".into(),
        "round(x, -1) = 1".into(),
        "round(x, id) = 1".into(),
        "CAST(id AS INTEGER) = 1".into(),
        "CAST(x AS DECIMAL(999, 999)) = 1".into(),
        "CAST(n AS DATE) = ts".into(),
        "CAST(n * 1000000000000 AS TIMESTAMP) > ts".into(),
        "DATE 'foo' = ts".into(),
        "TIMESTAMP '9999999-99-99' = ts".into(),
        "TIME '99:99' = ts".into(),
        "EXTRACT(foo FROM ts) = 1".into(),
        "EXTRACT(year FROM id) = 1".into(),
        "date_part('foo', ts) = 1".into(),
        "upper() = 'a'".into(),
        "length(n) = 1".into(),
        "coalesce() = 1".into(),
        "nullif(n) = 1".into(),
        "ifnull(n) = 1".into(),
        "lower(id, id, id) = 'a'".into(),
        "mod() = 1".into(),
        "round() = 1".into(),
        "n IN ()".into(),
        "n IN ('a', 1, NULL)".into(),
        "n LIKE 'a'".into(),
        "id LIKE n".into(),
        "id LIKE '%' ESCAPE ''".into(),
        "CASE END".into(),
        "CASE n WHEN 1 THEN true END".into(),
        "nothing = 1".into(),
        "a.b.c = 1".into(),
        "NULL".into(),
        "true".into(),
        "n".into(),
        "sqrt(-1.0) > x".into(),
        "ln(0) = x".into(),
        "exp(100000) > x".into(),
        "log(x, 0) = 1".into(),
        "\"\" = 1".into(),
        "reverse(id) = 'a'".into(),
        "n > 1 AND".into(),
        "NOT".into(),
        "((n > 1)".into(),
        "\u{0}".into(),
        "n = 'é\u{0}'".into(),
        "é = 1".into(),
        "n BETWEEN AND".into(),
        "IS NULL".into(),
        "n IS DISTINCT FROM 1".into(),
    ];
    for predicate in &cases {
        if let Err(error) = select(&manifest, predicate) {
            assert!(!error.contains("panic") && error.len() < 2000, "{predicate}: {error}");
        }
    }
}

#[test]
fn hostile_predicates_end_a_command_with_2_and_little_memory() {
    let workplace = Workplace::with_images(4, 4);
    let plain = workplace
        .command("plan", &["--set", "input.where=id <> 'row-0001'"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (status, memory) = peak_memory(plain);
    assert!(status.success());
    let ands = vec!["id <> 'a'"; 3000].join(" AND ");
    for predicate in ["rpad(id, 2000000000, 'x') = 'a'", "greatest() = 1", "interval '1 foo' = id", &ands] {
        let setting = format!("input.where={predicate}");
        let mut command = workplace.command("plan", &["--set", &setting]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("hint: ") && !said.contains("panic"), "{said}");
        let (_, used) = peak_memory(command.stderr(std::process::Stdio::null()).spawn().unwrap());
        assert!(used < memory + (200 << 20), "{predicate}: {used} bytes, {memory} for a plain one");
    }
}
