//! Braces in the names of files, as shells and webdataset expand them: `{00000..00009}.tar`, `{train,test}.parquet`.

/// Longer texts are no patterns.
const LONGEST: usize = 4096;
/// The most names of one pattern.
const MOST: usize = 100_000;

/// Every name that `text` stands for, in its order; itself if it has no braces to expand. None: too many.
pub(super) fn expand(text: &str) -> Option<Vec<String>> {
    let Some((open, close)) = first(text).filter(|_| text.len() <= LONGEST) else { return Some(vec![text.to_owned()]) };
    let (before, inner, after) = (&text[..open], &text[open + 1..close], &text[close + 1..]);
    let mut choices = choices(inner)?;
    // Braces around something else stay.
    if choices.is_empty() {
        choices = expand(inner)?.into_iter().map(|inner| format!("{{{inner}}}")).collect();
    }
    let rest = expand(after)?;
    if choices.len().checked_mul(rest.len())? > MOST {
        return None;
    }
    Some(choices.iter().flat_map(|choice| rest.iter().map(move |rest| format!("{before}{choice}{rest}"))).collect())
}

/// The first pair of braces.
fn first(text: &str) -> Option<(usize, usize)> {
    text.match_indices('{').find_map(|(open, _)| Some((open, open + closing(&text[open..])?)))
}

/// Where the brace that `text` begins with is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.char_indices().find_map(|(at, letter)| {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })
}

/// What may stand in the place of braces: nothing if they are none of ours; None: too many.
fn choices(inner: &str) -> Option<Vec<String>> {
    let mut depth = 0_i32;
    let parts = inner.split(|letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth == 0
    });
    let parts: Vec<&str> = parts.collect();
    if parts.len() > 1 {
        let all = parts.into_iter().map(expand).collect::<Option<Vec<_>>>()?;
        return Some(all.into_iter().flatten().collect());
    }
    let Some((first, last)) = inner.split_once("..") else { return Some(Vec::new()) };
    let number = |text: &str| {
        let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (Some(from), Some(to)) = (number(first), number(last)) else { return Some(Vec::new()) };
    if from.abs_diff(to) >= MOST as u64 {
        return None;
    }
    let is_padded = [first, last].iter().any(|text| text.len() > 1 && text.starts_with('0'));
    let width = if is_padded { first.len().max(last.len()) } else { 0 };
    let numbers: Box<dyn Iterator<Item = u64>> =
        if from <= to { Box::new(from..=to) } else { Box::new((to..=from).rev()) };
    Some(numbers.map(|number| format!("{number:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What braceexpand 0.1.7 gives, which webdataset uses.
    #[test]
    fn braces_as_braceexpand_has_them() {
        for (pattern, names) in [
            ("a-{00..02}.tar", "a-00.tar a-01.tar a-02.tar"),
            ("{9..11}", "9 10 11"),
            ("{08..10}x", "08x 09x 10x"),
            ("{0..010}", "000 001 002 003 004 005 006 007 008 009 010"),
            ("{2..0}", "2 1 0"),
            ("{a,b}{1,2}", "a1 a2 b1 b2"),
            ("x{,y}", "x xy"),
            ("{a,b{1..2}}/{c,d}", "a/c a/d b1/c b1/d b2/c b2/d"),
            ("{x}{1..2}", "{x}1 {x}2"),
            ("{}", "{}"),
            ("plain", "plain"),
            ("{x", "{x"),
        ] {
            assert_eq!(expand(pattern).unwrap().join(" "), names, "{pattern}");
        }
        assert_eq!(expand("{0..99999}{0..9}"), None);
        assert_eq!(expand("{0..18446744073709551615}"), None);
    }
}
