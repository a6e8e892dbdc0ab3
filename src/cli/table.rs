//! Aligned columns, and times and numbers as people read them.

use std::fmt::Write;

use chrono::{Days, NaiveDate};

use crate::core::record::Timestamp;

/// Where nobody looks on a terminal.
const WIDTH: usize = 100;
const GAP: &str = "  ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    /// The last column: cut to what is left of the line.
    Rest,
}

/// Rows under a head, every column as wide as its widest cell.
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines, none longer than the terminal is wide.
    pub(super) fn render(&self) -> String {
        let head: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let lines = || std::iter::once(&head).chain(&self.rows);
        let mut text = String::new();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| lines().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        for row in lines() {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                if !line.is_empty() {
                    line.push_str(GAP);
                }
                // Writing to a string cannot fail.
                let _ = match align {
                    Align::Left => write!(line, "{cell:width$}"),
                    Align::Right => write!(line, "{cell:>width$}"),
                    Align::Rest => {
                        let room = terminal_width().saturating_sub(line.chars().count());
                        write!(line, "{}", cut(cell, room.max(20)))
                    }
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text, ended by … where it does not fit; its line breaks are blanks.
pub(super) fn cut(text: &str, room: usize) -> String {
    let flat = text.replace(['\n', '\r', '\t'], " ");
    if flat.chars().count() <= room {
        return flat;
    }
    flat.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// The text in lines no longer than the room, broken behind a blank or a comma where there is one not too far back. Nothing of it
/// is lost.
pub(super) fn folded(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut line = String::new();
    let mut length = 0;
    for c in text.chars() {
        if length == room {
            let at = line.rfind([' ', ',']).map(|at| at + 1).filter(|at| *at > line.len() / 2).unwrap_or(line.len());
            let rest = line.split_off(at);
            lines.push(std::mem::replace(&mut line, rest));
            length = line.chars().count();
        }
        line.push(c);
        length += 1;
    }
    lines.push(line);
    lines.retain(|line| !line.is_empty());
    lines
}

pub(super) fn terminal_width() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stdout());
    size.map_or(WIDTH, |(width, _)| width.0.into())
}

/// `1,204,993`.
pub(crate) fn number(count: impl Into<i128>) -> String {
    let count: i128 = count.into();
    let digits = count.unsigned_abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if count < 0 { format!("-{text}") } else { text }
}

/// `02:14` today, `yest.`, `21 Nov`, all in UTC.
pub(super) fn short_time(at: Timestamp, today: NaiveDate) -> String {
    let Some(time) = at.utc() else { return at.0.to_string() };
    let day = time.date_naive();
    if day == today {
        time.format("%H:%M").to_string()
    } else if Some(day) == today.checked_sub_days(Days::new(1)) {
        "yest.".to_owned()
    } else {
        time.format("%d %b").to_string()
    }
}

/// `02:14:09.120`.
pub(super) fn time_of_day(at: Timestamp) -> String {
    at.utc().map_or_else(|| at.0.to_string(), |time| time.format("%H:%M:%S%.3f").to_string())
}

/// `▁▃█▇▁▁▁`: each count as a part of the largest.
pub(super) fn sparkline(counts: &[u64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let largest = counts.iter().copied().max().unwrap_or(0).max(1);
    let level = |count: u64| usize::try_from((count * 7).div_ceil(largest)).unwrap_or(7);
    counts.iter().filter_map(|count| LEVELS.get(level(*count))).collect()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_the_last_one_is_cut() {
        let mut table = Table::new(&[("open", Align::Right), ("reason", Align::Left), ("what", Align::Rest)]);
        table.row(vec!["2,871".to_owned(), "permanent".to_owned(), "x".repeat(200)]);
        table.row(vec!["2".to_owned(), "conflict".to_owned(), "a\nb".to_owned()]);
        let text = table.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], " open  reason     what");
        assert_eq!(lines[2], "    2  conflict   a b");
        assert_eq!(lines[1].chars().count(), WIDTH);
        assert!(lines[1].ends_with('…'));
    }

    #[test]
    fn long_text_is_broken_at_blanks_and_commas_and_nothing_of_it_is_lost() {
        for (text, room, expected) in [
            ("short", 10, vec!["short"]),
            ("one two three", 8, vec!["one two ", "three"]),
            (r#"{"a":1,"b":2}"#, 8, vec![r#"{"a":1,"#, r#""b":2}"#]),
            ("0123456789abcdef", 6, vec!["012345", "6789ab", "cdef"]),
            ("a 23456789", 6, vec!["a 2345", "6789"]),
            ("äöü äöü", 4, vec!["äöü ", "äöü"]),
            ("", 4, vec![]),
        ] {
            assert_eq!(folded(text, room), expected, "{text}");
        }
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (count, expected) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (1_204_993, "1,204,993"), (-1_000, "-1,000")]
        {
            assert_eq!(number(count), expected);
        }
    }

    #[test]
    fn a_sparkline_shows_every_count_that_is_not_zero() {
        assert_eq!(sparkline(&[0, 1, 1_000, 500, 0]), "▁▂█▅▁");
        assert_eq!(sparkline(&[0, 0]), "▁▁");
    }

    #[test]
    fn times_are_told_as_far_as_they_are_near() {
        let today = NaiveDate::from_ymd_opt(2026, 11, 23).unwrap();
        let at = |text: &str| Timestamp(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis());
        assert_eq!(short_time(at("2026-11-23T02:14:09Z"), today), "02:14");
        assert_eq!(short_time(at("2026-11-22T23:59:59Z"), today), "yest.");
        assert_eq!(short_time(at("2026-11-20T00:00:00Z"), today), "20 Nov");
    }
}
