//! How a text of a payload may be written where it is repeated: in another case, escaped once or more as JSON does it, on one line, or
//! cut off at the end.

/// The beginning of a text is recognised at its cut-off end, if it is at least so many bytes long.
pub(super) const TELLING: usize = 4;
/// Where an error was cut off.
const ELLIPSIS: char = '…';

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Echo {
    /// So many bytes of the text.
    Whole(usize),
    /// The text ends in the midst of it.
    CutOff,
    None,
}

impl Echo {
    /// What the text begins with of this one, which is as [`on_one_line`] makes it.
    pub(super) fn of(hidden: &str, text: &str) -> Self {
        let mut reader = Reader { rest: text, is_escaped: false };
        for (seen, wanted) in hidden.char_indices() {
            if !reader.accepts(wanted) {
                return if seen >= TELLING && reader.is_cut_off() { Self::CutOff } else { Self::None };
            }
        }
        Self::Whole(text.len() - reader.rest.len())
    }
}

/// An error is one line: there is one blank in it for any white space.
pub(super) fn on_one_line(text: &str) -> String {
    let words = text.split(is_blank).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

struct Reader<'a> {
    rest: &'a str,
    /// Backslashes were read, and not yet what they escape.
    is_escaped: bool,
}

impl Reader<'_> {
    fn accepts(&mut self, wanted: char) -> bool {
        if wanted == ' ' {
            return self.skip_blanks();
        }
        if wanted != '\\' && self.accepts_if(|c| is_same(c, wanted)) {
            return true;
        }
        // What holds escaped text may be escaped itself: any number of them means one, or escapes what comes next.
        let after = self.rest.trim_start_matches('\\');
        self.is_escaped |= after.len() < self.rest.len();
        self.rest = after;
        self.is_escaped && (wanted == '\\' || self.accepts_escape(|c| is_same(c, wanted)))
    }

    fn skip_blanks(&mut self) -> bool {
        let before = self.rest.len();
        loop {
            let (rest, is_escaped) = (self.rest, self.is_escaped);
            if self.accepts_if(is_blank) {
                continue;
            }
            self.rest = rest.trim_start_matches('\\');
            if (is_escaped || self.rest.len() < rest.len()) && self.accepts_escape(is_blank) {
                continue;
            }
            (self.rest, self.is_escaped) = (rest, is_escaped);
            return rest.len() < before;
        }
    }

    fn accepts_if(&mut self, is_wanted: impl Fn(char) -> bool) -> bool {
        let mut chars = self.rest.chars();
        let is_there = chars.next().is_some_and(is_wanted);
        if is_there {
            (self.rest, self.is_escaped) = (chars.as_str(), false);
        }
        is_there
    }

    /// What is left begins behind the backslashes.
    fn accepts_escape(&mut self, is_wanted: impl Fn(char) -> bool) -> bool {
        let read = short_escape(self.rest).filter(|(c, _)| is_wanted(*c)).or_else(|| unicode_escape(self.rest));
        let Some((_, after)) = read.filter(|(c, _)| is_wanted(*c)) else { return false };
        (self.rest, self.is_escaped) = (after, false);
        true
    }

    /// Nothing is left, or nothing but the beginning of an escape.
    fn is_cut_off(&self) -> bool {
        let rest = self.rest.trim_end_matches(ELLIPSIS).trim_start_matches('\\');
        let is_escaped = self.is_escaped || rest.len() < self.rest.trim_end_matches(ELLIPSIS).len();
        let digits = rest.strip_prefix('u').filter(|digits| digits.len() < 4);
        rest.is_empty() || is_escaped && digits.is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()))
    }
}

fn is_same(c: char, wanted: char) -> bool {
    c == wanted || c.to_lowercase().eq(wanted.to_lowercase())
}

fn short_escape(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    let c = match chars.next()? {
        c @ ('"' | '/') => c,
        'b' | 'f' | 'n' | 'r' | 't' => ' ',
        _ => return None,
    };
    Some((c, chars.as_str()))
}

/// A character beyond the first 65,536 is two of them.
fn unicode_escape(text: &str) -> Option<(char, &str)> {
    let (first, after) = code_unit(text)?;
    if let Some(Ok(c)) = char::decode_utf16([first]).next() {
        return Some((c, after));
    }
    let (second, after) = code_unit(after.trim_start_matches('\\'))?;
    let c = char::decode_utf16([first, second]).next()?.ok()?;
    Some((c, after))
}

fn code_unit(text: &str) -> Option<(u16, &str)> {
    let (digits, after) = text.strip_prefix('u')?.split_at_checked(4)?;
    if !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    Some((u16::from_str_radix(digits, 16).ok()?, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hidden: &str, text: &str, expected: Echo) {
        assert_eq!(Echo::of(&on_one_line(hidden), text), expected, "{hidden:?} in {text:?}");
    }

    #[test]
    fn a_text_is_recognised_however_it_is_escaped() {
        for (hidden, text) in [
            ("Jürgen", "Jürgen"),
            ("Jürgen", "JÜRGEN"),
            ("Jürgen", r"J\u00fcrgen"),
            ("Jürgen", r"j\u00FCrgen"),
            ("Jürgen", r"J\\u00fcrgen"),
            (r#"a"b"#, r#"a\"b"#),
            (r#"a"b"#, r#"a\\\"b"#),
            (r"a\b", r"a\b"),
            (r"a\b", r"a\\b"),
            (r#"a\"ü"#, r#"a\\\"\u00fc"#),
            (r"a\ü", r"a\\\u00fc"),
            ("a/b", r"a\/b"),
            ("😀", r"\ud83d\uDE00"),
            ("😀", r"\\ud83d\\ude00"),
            ("Ana\r\n B", "Ana B"),
            ("Ana\nB", r"Ana\nB"),
            ("Ana\u{a0}B", r"Ana\u00a0B"),
            ("Ana nB", r"Ana\nnB"),
        ] {
            check(hidden, text, Echo::Whole(text.len()));
        }
    }

    #[test]
    fn a_text_is_recognised_at_an_end_that_is_cut_off() {
        for text in ["Jürg", "Jürg…", r"J\u00fcrg", r"J\u00fcrge…"] {
            check("Jürgen", text, Echo::CutOff);
        }
        for text in ["Anna", r"Anna\", r"Anna\u00", r"Anna\\u00f…"] {
            check("Annaü", text, Echo::CutOff);
        }
    }

    #[test]
    fn another_text_is_not_taken_for_it() {
        for text in ["", "Jü", "Jurgen", r"J\u00fdrgen", r"J\u00f", "Ju00fcrgen", r"J\ü\rgen ", "Jürg en"] {
            check("Jürgen", text, Echo::None);
        }
        check("a b", "ab", Echo::None);
        check("😀", r"\ud83d\ud83d", Echo::None);
    }
}
