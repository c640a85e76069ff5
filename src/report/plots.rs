//! Plots as SVG, for use within a page: colours and fonts come from the page's style. Every text in them is made here or escaped here.

use std::fmt::Write;

use super::tally::{Bar, Tally};
use crate::output::records::stage_times::StageRecord;

/// Bars of a histogram.
const BARS: i64 = 36;
/// The size of a histogram.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 96.0;
/// The height of a stage's row, and the left end of its bar.
const ROW: f64 = 28.0;
const LABELS: f64 = 84.0;
/// The width of the picture of stages, and what is left for the seconds behind a bar.
const STAGES_WIDTH: f64 = 560.0;
const SECONDS: f64 = 66.0;

/// A number with as many digits as a reader needs.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') { "0".to_owned() } else { text }
}

/// Whole numbers with thin gaps between groups of three digits.
pub(super) fn count(rows: u64) -> String {
    let digits = rows.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A text within SVG.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// A histogram with its least, middle and greatest number below; `name` is for those who do not see it. None without numbers.
pub(super) fn histogram(name: &str, tally: &Tally) -> Option<String> {
    let (least, middle, greatest) = (tally.quantile(0.0)?, tally.quantile(0.5)?, tally.quantile(1.0)?);
    let bars = tally.bars(BARS);
    let highest = bars.iter().map(|bar| bar.rows).max()?.max(1) as f64;
    let step = WIDTH / bars.len() as f64;
    let label = format!(
        "{name}: {} rows, from {} to {}, half of them up to {}",
        tally.rows(),
        number(least),
        number(greatest),
        number(middle)
    );
    let mut svg = format!(
        "<svg class=\"histogram\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">",
        HEIGHT + 22.0,
        escaped(&label)
    );
    for (at, Bar { from, to, rows }) in bars.iter().enumerate() {
        // What there is can be seen.
        let height = if *rows == 0 { 0.0 } else { (*rows as f64 / highest * (HEIGHT - 6.0)).max(1.5) };
        let [from, to] = [from, to].map(|end| number(*end));
        let range = if from == to { from } else { format!("{from} to {to}") };
        let gap = (step * 0.14).min(2.0);
        let _ = write!(
            svg,
            "<rect class=\"bar\" x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{height:.2}\" rx=\"1\"><title>{range}: {}</title></rect>",
            at as f64 * step + gap / 2.0,
            HEIGHT - height,
            step - gap,
            count(*rows)
        );
    }
    let whole = (bars.last()?.to - bars.first()?.from).max(f64::MIN_POSITIVE);
    let place =
        if bars.len() == 1 { WIDTH / 2.0 } else { (middle - bars[0].from) / whole * (WIDTH - step) + step / 2.0 };
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"0\" y1=\"{HEIGHT}\" x2=\"{WIDTH}\" y2=\"{HEIGHT}\"/>\
         <line class=\"middle\" x1=\"{place:.2}\" y1=\"0\" x2=\"{place:.2}\" y2=\"{HEIGHT}\"><title>half of the rows are up to {}</title></line>",
        number(middle)
    );
    let base = HEIGHT + 16.0;
    if bars.len() > 1 {
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{base}\">{}</text><text class=\"end\" x=\"{WIDTH}\" y=\"{base}\">{}</text>",
            number(least),
            number(greatest)
        );
    }
    if (0.12..0.88).contains(&(place / WIDTH)) {
        let _ = write!(svg, "<text class=\"centre\" x=\"{place:.2}\" y=\"{base}\">{}</text>", number(middle));
    }
    svg.push_str("</svg>");
    Some(svg)
}

/// Where time went: for each stage what it worked, waited for the stage before and for the stage after. None without times.
pub(super) fn stages(stages: &[StageRecord]) -> Option<String> {
    let whole = |stage: &StageRecord| stage.busy_s + stage.wait_input_s + stage.wait_output_s;
    let longest = stages.iter().map(whole).fold(0.0, f64::max);
    // Records may hold anything.
    if !longest.is_finite() || longest <= 0.0 {
        return None;
    }
    let scale = (STAGES_WIDTH - LABELS - SECONDS) / longest;
    let spoken = stages.iter().map(|stage| format!("{} worked {:.1} s", stage.stage, stage.busy_s));
    let mut svg = format!(
        "<svg class=\"stages\" viewBox=\"0 0 {STAGES_WIDTH} {}\" role=\"img\" aria-label=\"{}\">",
        stages.len() as f64 * ROW,
        escaped(&format!("Where time went: {}", spoken.collect::<Vec<_>>().join(", ")))
    );
    for (at, stage) in stages.iter().enumerate() {
        let (top, mut left) = (at as f64 * ROW, LABELS);
        let _ = write!(svg, "<text x=\"0\" y=\"{:.1}\">{}</text>", top + ROW / 2.0 + 4.0, escaped(&stage.stage));
        for (class, what, seconds) in [
            ("busy", "worked", stage.busy_s),
            ("before", "waited for the stage before", stage.wait_input_s),
            ("after", "waited for the stage after", stage.wait_output_s),
        ] {
            let width = seconds.max(0.0) * scale;
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{left:.2}\" y=\"{:.1}\" width=\"{width:.2}\" height=\"{:.1}\"><title>{} {what} {seconds:.2} s</title></rect>",
                top + 6.0,
                ROW - 12.0,
                escaped(&stage.stage)
            );
            left += width;
        }
        let _ = write!(
            svg,
            "<text class=\"quiet\" x=\"{:.2}\" y=\"{:.1}\">{:.1} s</text>",
            left + 8.0,
            top + ROW / 2.0 + 4.0,
            stage.busy_s
        );
    }
    svg.push_str("</svg>");
    Some(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stage: &str, busy_s: f64, wait_input_s: f64) -> StageRecord {
        StageRecord { stage: stage.to_owned(), busy_s, wait_input_s, wait_output_s: 0.0, bytes: 0 }
    }

    #[test]
    fn a_histogram_shows_every_bar_and_says_what_it_shows() {
        let mut tally = Tally::new(1.0);
        for number in [3.0, 3.0, 3.0, 3.0, 4.0, 9.0] {
            tally.add(number);
        }
        let svg = histogram("words <b>", &tally).unwrap();
        assert_eq!(svg.matches("<rect").count(), 7, "{svg}");
        assert!(svg.contains("aria-label=\"words &lt;b&gt;: 6 rows, from 3 to 9, half of them up to 3\""), "{svg}");
        assert!(svg.contains("<title>4: 1</title>") && svg.contains("height=\"90.00\""), "{svg}");
        assert_eq!(histogram("nothing", &Tally::new(1.0)), None);
    }

    #[test]
    fn stages_share_one_scale_and_hold_no_markup() {
        let svg = stages(&[record("model", 3.0, 1.0), record("<script>", 1.0, 0.0)]).unwrap();
        assert!(svg.contains("width=\"307.50\"") && svg.contains("width=\"102.50\""), "{svg}");
        assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script>"), "{svg}");
        assert!(stages(&[]).is_none() && stages(&[record("model", 0.0, 0.0)]).is_none());
        assert!(stages(&[record("model", f64::INFINITY, 0.0)]).is_none());
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, -0.0, 3.0, 0.1234, 0.05, 12.34, 1234.5].map(number),
            ["0", "0", "3", "0.12", "0.050", "12.3", "1234"]
        );
        assert_eq!(
            ["0", "999", "1\u{202f}000", "12\u{202f}345\u{202f}678"],
            [0, 999, 1000, 12_345_678].map(count).map(|text| text).each_ref().map(String::as_str)
        );
    }
}
