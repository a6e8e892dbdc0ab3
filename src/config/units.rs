//! Durations and sizes as people write them: `"30s"`, `"64MiB"`.

pub(crate) mod duration {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const UNITS: [(u128, &str); 7] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];

    pub(crate) fn parse(text: &str) -> Option<Duration> {
        humantime::parse_duration(text.trim()).ok()
    }

    /// In the largest unit that holds it in whole numbers.
    pub(crate) fn render(duration: Duration) -> String {
        let nanoseconds = duration.as_nanos();
        if nanoseconds == 0 {
            return "0s".to_owned();
        }
        UNITS
            .iter()
            .find(|(unit, _)| nanoseconds.is_multiple_of(*unit))
            .map(|(unit, name)| format!("{}{name}", nanoseconds / unit))
            .unwrap_or_default()
    }

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&render(*duration))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a duration")))
    }
}

pub(crate) mod size {
    use bytesize::ByteSize;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const UNITS: [(u64, &str); 4] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")];

    pub(crate) fn parse(text: &str) -> Option<u64> {
        text.trim().parse::<ByteSize>().ok().map(|size| size.0)
    }

    /// In the largest unit that holds it in whole numbers.
    pub(crate) fn render(bytes: u64) -> String {
        UNITS
            .iter()
            .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
            .map_or_else(|| "0B".to_owned(), |(unit, name)| format!("{}{name}", bytes / unit))
    }

    // Serde hands fields over by reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(crate) fn serialize<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&render(u64::try_from(*bytes).unwrap_or(u64::MAX)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not a size")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, size};

    #[test]
    fn a_duration_reads_and_renders_in_its_largest_whole_unit() {
        for (text, milliseconds, rendered) in [
            ("500ms", 500, "500ms"),
            ("1000ms", 1_000, "1s"),
            ("90s", 90_000, "90s"),
            ("1m 30s", 90_000, "90s"),
            (" 5m ", 300_000, "5m"),
            ("24h", 86_400_000, "1d"),
            ("30days", 2_592_000_000, "30d"),
            ("0s", 0, "0s"),
        ] {
            assert_eq!(duration::parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
            assert_eq!(duration::render(Duration::from_millis(milliseconds)), rendered);
        }
        for text in ["", "10", "s", "-1s", "1x", "ten seconds", "99999999999999999999s"] {
            assert_eq!(duration::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_size_reads_and_renders_in_its_largest_whole_unit() {
        for (text, bytes, rendered) in [
            ("64MiB", 67_108_864, "64MiB"),
            ("1 GiB", 1_073_741_824, "1GiB"),
            ("1MB", 1_000_000, "1000000B"),
            ("2048", 2_048, "2KiB"),
            ("0", 0, "0B"),
        ] {
            assert_eq!(size::parse(text), Some(bytes), "{text}");
            assert_eq!(size::render(bytes), rendered);
        }
        for text in ["", "MiB", "-1MiB", "64 parsec"] {
            assert_eq!(size::parse(text), None, "{text}");
        }
    }
}
