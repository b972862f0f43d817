//! Result files as a table in Markdown, as the README has it.

use crate::report::{Kept, Repeats, Row};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Prints the rows of all files; of one that is in several, the last.
pub(super) fn print(files: &[PathBuf]) -> anyhow::Result<()> {
    let kept: anyhow::Result<Vec<Kept>> = files.iter().map(|file| Kept::read(file)).collect();
    print!("{}", markdown(&kept?));
    Ok(())
}

fn markdown(kept: &[Kept]) -> String {
    let mut rows: Vec<&Row> = Vec::new();
    for row in kept.iter().flat_map(|kept| &kept.rows) {
        match rows.iter_mut().find(|earlier| earlier.what == row.what) {
            Some(earlier) => *earlier = row,
            None => rows.push(row),
        }
    }
    let mut text = String::from(
        "| | hawser | beside it | ratio | target | record | |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| row.target.is_some()) {
        let record = row.target.as_ref().map_or("", |target| &target.record);
        let _ = writeln!(
            text,
            "| {}: {} | {} | {} | {} | {} | {record} | {} |",
            row.what,
            row.unit,
            spread(Some(&row.hawser)),
            spread(row.bare.as_ref()),
            spread(row.ratio.as_ref()),
            row.target_shown(),
            match row.is_met() {
                Some(true) => "met",
                Some(false) => "**not met**",
                None => "",
            }
        );
    }
    text.push_str("\n| also measured | hawser | beside it | ratio |\n|---|---|---|---|\n");
    for row in rows.iter().filter(|row| row.target.is_none()) {
        let _ = writeln!(
            text,
            "| {}: {} | {} | {} | {} |",
            row.what,
            row.unit,
            spread(Some(&row.hawser)),
            spread(row.bare.as_ref()),
            spread(row.ratio.as_ref())
        );
    }
    text
}

/// Three digits of each are what such figures are good for.
fn spread(repeats: Option<&Repeats>) -> String {
    let Some(repeats) = repeats else { return String::new() };
    let (least, most) = repeats.spread();
    let [median, least, most] = [repeats.median(), least, most].map(digits);
    if repeats.count() > 1 { format!("{median} ({least} to {most})") } else { median }
}

fn digits(value: f64) -> String {
    if value.abs() < 10.0 {
        return format!("{value:.2}");
    }
    if value.abs() < 100.0 {
        return format!("{value:.1}");
    }
    let whole = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Bound, Machine};

    #[test]
    fn a_table_has_the_last_of_each_row_and_says_what_is_not_met() {
        let of = |values: &[f64]| values.iter().copied().collect::<Repeats>();
        let row = |ratio: f64| {
            Row::beside("push".into(), "CPU-s", of(&[12_345.0]), of(&[1.0]), of(&[ratio, 9.0]))
                .to_reach(Bound::RatioAtMost(9.0), "redis 1.14")
        };
        let kept = |row| Kept {
            unix_time: 0,
            machine: Machine::default(),
            workers: None,
            rows: vec![row],
        };
        let text = markdown(&[kept(row(10.0)), kept(row(2.0))]);
        assert_eq!(text.matches("| push").count(), 1);
        assert!(
            text.contains("12,345 | 1.00 | 9.00 (2.00 to 9.00) | ≤ 9.00 × | redis 1.14 | met |"),
            "{text}"
        );
        assert!(markdown(&[kept(row(10.0))]).contains("**not met**"));
    }
}
