//! What `input.where` may be: a condition on one row, of bounded length and depth, made of operators and functions whose results are no
//! larger than their arguments. The text is checked before polars parses it, because polars runs subqueries while it parses and
//! recurses without a limit; the expression is checked again after that.

use polars::prelude::{AggExpr, BooleanFunction, Expr, FunctionExpr, PowFunction, StringFunction, StructFunction};
use polars::sql::sql_expr;

/// Characters of a predicate: a list of some hundred thousand keys.
const LONGEST: usize = 4 << 20;
/// Characters of one text in it: a function may copy it into every row.
const LONGEST_TEXT: usize = 1000;
/// Operators and conditions: expressions are as deep as there are, and polars recurses.
const MOST_OPERATORS: usize = 500;
/// Parentheses and CASE within each other.
const DEEPEST: usize = 20;

/// The functions that may be called.
const FUNCTIONS: [&str; 42] = [
    "abs",
    "bit_length",
    "cast",
    "cbrt",
    "ceil",
    "ceiling",
    "char_length",
    "character_length",
    "coalesce",
    "date_part",
    "ends_with",
    "exp",
    "extract",
    "floor",
    "if",
    "ifnull",
    "left",
    "length",
    "ln",
    "log",
    "log10",
    "log1p",
    "log2",
    "lower",
    "ltrim",
    "mod",
    "nullif",
    "octet_length",
    "position",
    "regexp_like",
    "right",
    "round",
    "rtrim",
    "sign",
    "sqrt",
    "starts_with",
    "strpos",
    "substr",
    "substring",
    "trim",
    "try_cast",
    "upper",
];
/// Words that may stand before a parenthesis without being functions.
const BEFORE_PARENTHESIS: [&str; 21] = [
    "and", "or", "xor", "not", "in", "between", "when", "then", "else", "case", "is", "like", "ilike", "rlike",
    "regexp", "from", "for", "both", "varchar", "char", "as",
];
/// Words that make something else than a condition on one row.
const REFUSED: [&str; 20] = [
    "select",
    "values",
    "table",
    "union",
    "intersect",
    "except",
    "with",
    "over",
    "filter",
    "within",
    "interval",
    "exists",
    "any",
    "all",
    "some",
    "array",
    "struct",
    "map",
    "collate",
    "into",
];
/// Words that combine conditions.
const OPERATORS: [&str; 16] = [
    "and", "or", "xor", "not", "is", "in", "like", "ilike", "rlike", "regexp", "between", "div", "when", "similar",
    "isnull", "notnull",
];

/// Parses a predicate.
///
/// # Errors
/// What was expected and what was found.
pub(super) fn parse(text: &str) -> Result<Expr, String> {
    check_text(text)?;
    let predicate = sql_expr(text).map_err(|error| plain(&error.to_string()))?;
    for expression in &predicate {
        check_node(expression)?;
    }
    Ok(predicate)
}

/// The message of polars, without the query plan after an empty line, and not longer than a few lines.
pub(super) fn plain(message: &str) -> String {
    const LONGEST_MESSAGE: usize = 500;
    message.split("\n\n").next().unwrap_or_default().chars().take(LONGEST_MESSAGE).collect()
}

/// One token, as far as it matters here.
enum Token<'a> {
    Word(&'a str),
    /// A name in double quotes.
    Name,
    Text,
    Number,
    /// A run of other characters, such as `<=`.
    Sign(&'a str),
}

/// Checks the text of a predicate.
fn check_text(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("expected a condition, found nothing".to_owned());
    }
    if text.len() > LONGEST {
        return Err(format!("expected at most {LONGEST} characters, found {}", text.len()));
    }
    let (mut rest, mut operators, mut cases) = (text.trim_start(), 0_usize, 0_usize);
    // What the open parentheses belong to.
    let mut open: Vec<&str> = Vec::new();
    let mut before: Option<Token<'_>> = None;
    while !rest.is_empty() {
        let (token, after) = next(rest)?;
        let after = after.trim_start();
        match &token {
            Token::Sign("(") => {
                let what = match &before {
                    Some(Token::Word(word)) => called(word, text, rest)?,
                    Some(Token::Name | Token::Text | Token::Number) => {
                        return Err(
                            "expected a function without quotes before `(`, one of ".to_owned() + &FUNCTIONS.join(", ")
                        );
                    }
                    _ => "",
                };
                open.push(what);
            }
            Token::Sign(")") => drop(open.pop()),
            Token::Sign(",") if open.is_empty() => return Err("expected one condition, found `,`".to_owned()),
            Token::Sign("," | ".") | Token::Name | Token::Text | Token::Number => {}
            Token::Sign(_) => operators += 1,
            Token::Word(word) => {
                let word = word.to_ascii_lowercase();
                let called_in = open.last().copied().unwrap_or_default();
                let out_of_place = match word.as_str() {
                    "from" | "for" => !matches!(called_in, "extract" | "substring" | "trim" | "position"),
                    "as" => !matches!(called_in, "cast" | "try_cast"),
                    word => REFUSED.contains(&word),
                };
                if out_of_place {
                    return Err(format!(
                        "expected a condition on one row, found `{word}` (a column of this name is written in double quotes)"
                    ));
                }
                operators += usize::from(OPERATORS.contains(&word.as_str()));
                match word.as_str() {
                    "case" => cases += 1,
                    "end" => cases = cases.saturating_sub(1),
                    _ => {}
                }
            }
        }
        if open.len() + cases > DEEPEST {
            return Err(format!("parentheses and CASE may nest {DEEPEST} deep, found more"));
        }
        if operators > MOST_OPERATORS {
            return Err(format!(
                "expected at most {MOST_OPERATORS} operators, found more (`column IN ('a', 'b', ...)` compares with any number of values)"
            ));
        }
        (before, rest) = (Some(token), after);
    }
    Ok(())
}

/// The function or keyword `word` before a parenthesis. `text` ends with `rest`, which begins at the parenthesis.
fn called<'a>(word: &str, text: &'a str, rest: &str) -> Result<&'a str, String> {
    let lower = word.to_ascii_lowercase();
    // Polars calls the first name of `a.b(...)`.
    let head = text[..text.len() - rest.len()].trim_end();
    let qualified = head.strip_suffix(word).is_some_and(|head| head.trim_end().ends_with('.'));
    let known = FUNCTIONS.iter().chain(&BEFORE_PARENTHESIS).find(|name| **name == lower);
    if let Some(name) = known.filter(|_| !qualified) {
        return Ok(name);
    }
    let dot = if qualified { "." } else { "" };
    let shown: String = lower.chars().take(40).collect();
    Err(format!("found the function `{dot}{shown}`; the functions that may be used are {}", FUNCTIONS.join(", ")))
}

/// The next token of `text`, which begins with one, and what follows it.
fn next(text: &str) -> Result<(Token<'_>, &str), String> {
    let first = text.chars().next().unwrap_or(' ');
    let split = |fits: fn(char) -> bool| text.split_at(text.find(|character| !fits(character)).unwrap_or(text.len()));
    match first {
        '\'' | '"' => {
            let length = quoted(text, first)?;
            let shown = text[..length].chars().count();
            if shown > LONGEST_TEXT {
                return Err(format!("expected texts of at most {LONGEST_TEXT} characters, found one of {shown}"));
            }
            Ok((if first == '"' { Token::Name } else { Token::Text }, &text[length..]))
        }
        _ if first.is_alphabetic() || first == '_' => {
            let (word, rest) = split(|character| character.is_alphanumeric() || character == '_');
            let is_type = ["date", "time", "timestamp"].iter().any(|name| word.eq_ignore_ascii_case(name));
            if rest.starts_with(['\'', '"']) && !is_type {
                let shown: String = word.chars().take(40).collect();
                return Err(format!("expected texts in single quotes without a prefix, found {shown}{}", &rest[..1]));
            }
            Ok((Token::Word(word), rest))
        }
        _ if first.is_ascii_digit() => {
            let (_, rest) =
                split(|character| character.is_ascii_alphanumeric() || character == '.' || character == '_');
            Ok((Token::Number, rest))
        }
        '(' | ')' | ',' | '.' => {
            let (sign, rest) = text.split_at(1);
            Ok((Token::Sign(sign), rest))
        }
        _ => {
            let (sign, rest) = split(|character| "=<>!+-*/%~:".contains(character));
            // `a - -1` is arithmetic; `a --1` begins a comment.
            if let Some(comment) = ["--", "/*"].iter().find(|comment| sign.contains(**comment)) {
                return Err(format!("expected a condition without comments, found `{comment}`"));
            }
            if sign.is_empty() {
                let sign: String =
                    if text.starts_with("||") { "||".to_owned() } else { first.escape_default().collect() };
                return Err(format!("expected columns, values, functions and operators, found `{sign}`"));
            }
            Ok((Token::Sign(sign), rest))
        }
    }
}

/// The length in bytes of what is quoted at the start of `text`; a doubled quote stands for one.
fn quoted(text: &str, quote: char) -> Result<usize, String> {
    let mut at = 1;
    loop {
        let Some(end) = text[at..].find(quote) else { return Err(format!("a quote `{quote}` is not closed")) };
        at += end + 1;
        if !text[at..].starts_with(quote) {
            return Ok(at);
        }
        at += 1;
    }
}

/// Checks one node of a parsed predicate: it looks at one row, and gives no more bytes than it takes.
fn check_node(expression: &Expr) -> Result<(), String> {
    let over_many = || Err("expected a condition on one row, found an aggregate or window over many".to_owned());
    match expression {
        Expr::Column(_) | Expr::Literal(_) | Expr::BinaryExpr { .. } | Expr::Cast { .. } | Expr::Ternary { .. } => {
            Ok(())
        }
        // The list behind `IN`.
        Expr::Agg(AggExpr::Implode { input, .. }) if matches!(**input, Expr::Literal(_)) => Ok(()),
        Expr::Function { function: FunctionExpr::StringExpr(StringFunction::Contains { .. }), input }
            if !matches!(input.get(1), Some(Expr::Literal(_))) =>
        {
            Err("expected a pattern that is a text in single quotes, found one that differs from row to row".to_owned())
        }
        Expr::Function { function, .. } if is_allowed(function) => Ok(()),
        Expr::Function { function, .. } => Err(format!("found the function `{function}`, which may not be used")),
        Expr::Agg(_)
        | Expr::Len
        | Expr::Over { .. }
        | Expr::Sort { .. }
        | Expr::SortBy { .. }
        | Expr::Gather { .. }
        | Expr::Slice { .. }
        | Expr::Explode { .. }
        | Expr::Filter { .. } => over_many(),
        _ => Err("expected columns, values, functions and operators, found something else".to_owned()),
    }
}

fn is_allowed(function: &FunctionExpr) -> bool {
    use BooleanFunction as Truth;
    use FunctionExpr as Function;
    use StringFunction as Text;
    match function {
        Function::Boolean(function) => matches!(
            function,
            Truth::IsNull
                | Truth::IsNotNull
                | Truth::IsFinite
                | Truth::IsInfinite
                | Truth::IsNan
                | Truth::IsNotNan
                | Truth::IsBetween { .. }
                | Truth::IsIn { .. }
                | Truth::AnyHorizontal
                | Truth::AllHorizontal
                | Truth::Not
        ),
        Function::StringExpr(function) => matches!(
            function,
            Text::Contains { .. }
                | Text::EndsWith
                | Text::Find { .. }
                | Text::Head
                | Text::LenBytes
                | Text::LenChars
                | Text::Lowercase
                | Text::Slice
                | Text::StartsWith
                | Text::StripChars
                | Text::StripCharsEnd
                | Text::StripCharsStart
                | Text::StripPrefix
                | Text::StripSuffix
                | Text::Strptime(..)
                | Text::Tail
                | Text::Uppercase
        ),
        Function::Pow(function) => matches!(function, PowFunction::Sqrt | PowFunction::Cbrt),
        // A field of a struct: `column.field`.
        Function::StructExpr(function) => matches!(function, StructFunction::FieldByName(_)),
        Function::TemporalExpr(_)
        | Function::Abs
        | Function::Negate
        | Function::Sign
        | Function::FillNull
        | Function::Coalesce
        | Function::Log
        | Function::Log1p
        | Function::Exp
        | Function::Round { .. }
        | Function::Floor
        | Function::Ceil => true,
        _ => false,
    }
}
