//! Changes of records that leave their JSON whole. Of changes of single bytes, which libFuzzer makes, few get past the first brace.

use std::ops::Range;

use fastrand::Rng;
use libfuzzer_sys::fuzzer_mutate;

const NAMES: [&str; 12] = [
    "event_type",
    "order",
    "timestamp",
    "request_id",
    "order_id",
    "user_id",
    "product_id",
    "quantity",
    "status",
    "note",
    "\\ud800",
    "$serde_json::private::RawValue",
];
const VALUES: [&str; 28] = [
    "null",
    "true",
    "0",
    "-0",
    "-1",
    "7",
    "0.5",
    "1e400",
    "1E5",
    "{}",
    "[]",
    "[[]]",
    "[[1],{\"a\":[]}]",
    "{\"a\":null}",
    "\"\"",
    "\"1\"",
    "\"N/A\"",
    "\"n/a\"",
    "\"ORDER_CREATED\"",
    "\"ORDER_PAID\"",
    "\"OTHER\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\ud83e\\udd80\"",
    "\"2026-11-23T10:00:00Z\"",
    "\"1999-12-31T23:59:59.999-12:30\"",
    "\"0000-01-01T00:00:00Z\"",
    "\"9999-12-31T23:59:60Z\"",
];
const PIECES: [&str; 7] = [" ", "\\n", "\\u0000", "\\ud800", "\\ud83e\\udd80", "é", "%"];
/// Of texts, around the limits that there are.
const LENGTHS: [usize; 12] = [1, 20, 21, 64, 127, 128, 129, 254, 255, 256, 257, 1_025];
const HEADER_NAMES: [&str; 20] = [
    "traceparent",
    "tenant",
    "herald-id",
    "herald-error",
    "herald-reason",
    "herald-attempts",
    "herald-timestamp",
    "herald-payload",
    "__dlq.errors.topic",
    "__dlq.errors.partition",
    "__dlq.errors.offset",
    "__connect.errors.topic",
    "__connect.errors.partition",
    "__connect.errors.offset",
    "kafka_dlt-original-topic",
    "kafka_dlt-original-partition",
    "kafka_dlt-original-offset",
    "kafka_dlt-original-timestamp",
    "kafka_dlt-exception-message",
    "retry_topic-attempts",
];
/// Halves of surrogate pairs as some write them in UTF-8, and what is empty, among them.
const PARTS: [&[u8]; 14] = [
    b"",
    b"\x1d",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"7",
    b"-7",
    b"\0\0\0\x07",
    b"\xff\xff\xff\xf9",
    b"\0\0\0\0\0\0\0\x07",
    b"\xff\xff\xff\xff\xff\xff\xff\xf9",
    b"2026-11-23T10:00:00.000Z",
    b"order_events",
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
];

/// Changes the first `size` bytes in place, every other time as libFuzzer does, and gives how many there are then.
pub fn mutate(bytes: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = Rng::with_seed(seed.into());
    if random.bool() {
        return fuzzer_mutate(bytes, size, max_size);
    }
    let changed = mutated(&bytes[..size], &mut random);
    if changed.len() > max_size {
        return fuzzer_mutate(bytes, size, max_size);
    }
    bytes[..changed.len()].copy_from_slice(&changed);
    changed.len()
}

/// Changes one of the records a few times.
fn mutated(bytes: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut records: Vec<Vec<u8>> = bytes.split(|byte| *byte == 0x1e).map(<[u8]>::to_vec).collect();
    let record = random.usize(..records.len());
    let mut parts: Vec<Vec<u8>> = records[record].split(|byte| *byte == 0x1f).map(<[u8]>::to_vec).collect();
    for _ in 0..random.usize(1..4) {
        match random.u8(..4) {
            0 => change_parts(&mut parts, random),
            _ => parts[0] = changed_json(&parts[0], random),
        }
    }
    records[record] = parts.join(&0x1f);
    records.join(&0x1e)
}

/// The key, or headers: their names and values in turn.
fn change_parts(parts: &mut Vec<Vec<u8>>, random: &mut Rng) {
    let text = some_text(&parts[0], random);
    let part = match random.u8(..4) {
        0 => text,
        1 => parts[random.usize(..parts.len())].clone(),
        _ => chosen(&PARTS, random).to_vec(),
    };
    match random.u8(..7) {
        0 if parts.len() > 1 => parts[1] = part,
        1 if parts.len() > 3 => drop(parts.drain(2..4)),
        2 if parts.len() > 3 => {
            let at = random.usize(1..parts.len() / 2) * 2;
            let again = [in_another_case(&parts[at]), part];
            parts.extend(again);
        }
        3 if parts.len() > 3 => {
            let at = random.usize(2..parts.len());
            parts[at] = part;
        }
        4 if parts.len() > 1 => {
            let at = random.usize(1..parts.len());
            parts[at].push(*chosen(b" \n\0\xff-7A", random));
        }
        _ => {
            parts.resize(parts.len().max(2).next_multiple_of(2), Vec::new());
            parts.extend([chosen(&HEADER_NAMES, random).as_bytes().to_vec(), part]);
        }
    }
}

fn changed_json(json: &[u8], random: &mut Rng) -> Vec<u8> {
    let Found { names, values, objects } = find(json);
    if names.is_empty() || values.is_empty() {
        return json.to_vec();
    }
    let (name, value) = (names[random.usize(..names.len())].clone(), values[random.usize(..values.len())].clone());
    let old = &json[value.clone()];
    match random.u8(..8) {
        0 | 1 => with(json, value, &any_value(random)),
        2 => with(json, value, &json[values[random.usize(..values.len())].clone()]),
        3 => {
            let times = *chosen(&[1, 1, 2, 3, 100, 126, 127, 128], random);
            with(json, value.clone(), &[&b"[".repeat(times), old, &b"]".repeat(times)].concat())
        }
        4 => with(json, name, format!("\"{}\"", chosen(&NAMES, random)).as_bytes()),
        5 if !objects.is_empty() => {
            let at = objects[random.usize(..objects.len())];
            let member = [format!("\"{}\":", chosen(&NAMES, random)).as_bytes(), &any_value(random), b","].concat();
            with(json, at..at, &member)
        }
        6 if old.starts_with(b"\"") => with(json, value.clone(), &in_another_case(old)),
        6 => with(json, value.start..value.start, b"-"),
        _ if old.len() > 1 && old.starts_with(b"\"") => {
            let at = *chosen(&[value.start + 1, value.end - 1], random);
            with(json, at..at, &piece_of_text(random))
        }
        _ => with(json, value.end..value.end, b"9"),
    }
}

fn piece_of_text(random: &mut Rng) -> Vec<u8> {
    match random.u8(..3) {
        0 => random.alphanumeric().to_string().repeat(random.usize(1..20)).into_bytes(),
        _ => chosen(&PIECES, random).as_bytes().to_vec(),
    }
}

fn any_value(random: &mut Rng) -> Vec<u8> {
    let length = *chosen(&LENGTHS, random);
    match random.u8(..8) {
        0 => vec![b'1'; length],
        // Limits that count bytes end in the midst of a character.
        1 => format!("\"{}{}\"", random.alphanumeric(), chosen(&["x", "é", "€"], random).repeat(length)).into_bytes(),
        _ => chosen(&VALUES, random).as_bytes().to_vec(),
    }
}

/// What one of the texts in the JSON says: keys and headers may repeat it.
fn some_text(json: &[u8], random: &mut Rng) -> Vec<u8> {
    let texts: Vec<_> = find(json).values.into_iter().filter(|value| json[value.clone()].starts_with(b"\"")).collect();
    let Some(text) = random.choice(texts) else { return Vec::new() };
    json.get(text.start + 1..text.end - 1).unwrap_or_default().to_vec()
}

/// Where things are in JSON, be it damaged.
#[derive(Default)]
struct Found {
    names: Vec<Range<usize>>,
    values: Vec<Range<usize>>,
    /// Behind the opening braces.
    objects: Vec<usize>,
}

fn find(json: &[u8]) -> Found {
    let mut found = Found::default();
    let (mut open, mut at) = (Vec::new(), 0);
    while let Some(byte) = json.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'{' | b'[' => open.push(start),
            b'}' | b']' => found.values.extend(open.pop().map(|begin| begin..at)),
            b'"' => {
                at = end_of_text(json, at);
                let next = json[at..].iter().find(|byte| !byte.is_ascii_whitespace());
                let kind = if next == Some(&b':') { &mut found.names } else { &mut found.values };
                kind.push(start..at);
            }
            b',' | b':' | b' ' | b'\n' => {}
            _ => {
                let is_end = |byte: &u8| b",:]} \n\"".contains(byte);
                at += json[at..].iter().position(is_end).unwrap_or(json.len() - at);
                found.values.push(start..at);
            }
        }
        if *byte == b'{' {
            found.objects.push(at);
        }
    }
    found
}

/// Behind the closing quote.
fn end_of_text(json: &[u8], from: usize) -> usize {
    let mut is_escaped = false;
    let is_end = |byte: &u8| {
        let was_escaped = is_escaped;
        is_escaped = !was_escaped && *byte == b'\\';
        !was_escaped && *byte == b'"'
    };
    json[from..].iter().position(is_end).map_or(json.len(), |length| from + length + 1)
}

fn with(json: &[u8], place: Range<usize>, new: &[u8]) -> Vec<u8> {
    [&json[..place.start], new, &json[place.end..]].concat()
}

fn in_another_case(text: &[u8]) -> Vec<u8> {
    let has_capitals = text.iter().any(u8::is_ascii_uppercase);
    if has_capitals { text.to_ascii_lowercase() } else { text.to_ascii_uppercase() }
}

fn chosen<'a, T>(all: &'a [T], random: &mut Rng) -> &'a T {
    &all[random.usize(..all.len())]
}
