//! Changes to inputs, drawn from a seeded source of chance.
//!
//! Bytes are flipped, cut, doubled and exchanged; in JSON whole values are, so that the text stays JSON.
//! Invariant: the same seed gives the same inputs.

use mindos_journal::fault::Random;
use serde_json::{Map, Value, json};

use crate::request;

/// Largest input made.
const INPUT_BYTES_MAX: usize = 1 << 20;

/// What an input is made of, so that changes hit what lies behind the first check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Bytes.
    Bytes,
    /// A request with a JSON body; see [`request`].
    JsonRequest,
    /// JSON alone.
    Json,
}

/// A changed copy of one of `seeds`.
#[must_use]
pub fn mutate(seeds: &[Vec<u8>], words: &[&str], shape: Shape, random: &mut Random) -> Vec<u8> {
    let mut input = seeds[below(random, seeds.len())].clone();
    for _ in 0..=random.below(4) {
        match shape {
            Shape::JsonRequest if random.chance(60) => {
                let at = request::body_at(&input);
                let body = change_json(&input[at..], words, random);
                input.truncate(at);
                input.extend_from_slice(&body);
            }
            Shape::Json if random.chance(60) => input = change_json(&input, words, random),
            Shape::JsonRequest | Shape::Json | Shape::Bytes => change_bytes(&mut input, seeds, words, random),
        }
        input.truncate(INPUT_BYTES_MAX);
    }
    input
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound.max(1) as u64)).unwrap_or(0)
}

fn change_bytes(input: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], random: &mut Random) {
    if input.is_empty() {
        input.push(random.bits().to_le_bytes()[0]);
    }
    let at = below(random, input.len());
    let len = 1 + below(random, (input.len() - at).min(64));
    match random.below(9) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff, b'"', b'\n'][below(random, 8)],
        2 => input.truncate(at),
        3 => drop(input.drain(at..at + len)),
        4 => {
            let part = input[at..at + len].to_vec();
            for _ in 0..1 + random.below(8) {
                let place = below(random, input.len());
                input.splice(place..place, part.iter().copied());
            }
        }
        5 => {
            let other = &seeds[below(random, seeds.len())];
            let from = below(random, other.len());
            let to = from + below(random, (other.len() - from).min(4096));
            input.splice(at..at + len, other[from..to].iter().copied());
        }
        6 if !words.is_empty() => {
            let word = words[below(random, words.len())];
            let end = if random.chance(50) { at } else { at + len };
            input.splice(at..end, word.bytes());
        }
        7 => {
            let value = [0, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 63, 0x7fff_ffff][below(random, 7)].to_le_bytes();
            for (place, byte) in input[at..].iter_mut().zip(&value[..1 << random.below(4)]) {
                *place = *byte;
            }
        }
        _ => {
            for byte in &mut input[at..at + len] {
                *byte = random.bits().to_le_bytes()[0];
            }
        }
    }
}

fn change_json(text: &[u8], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut value = serde_json::from_slice(text).unwrap_or(Value::Null);
    let node = somewhere(&mut value, random);
    let word = words.get(below(random, words.len())).copied().unwrap_or("x");
    match random.below(10) {
        0 => *node = Value::Null,
        1 => *node = json!(random.bits()),
        2 => *node = json!(-1.5e300),
        3 => *node = json!(random.chance(50)),
        4 => *node = json!(word),
        5 => *node = json!(word.repeat(1 + below(random, 4096))),
        6 => *node = json!("\u{0}\u{202e}\u{fffd}\u{1f9e0}\n\""),
        7 => {
            let copy = node.clone();
            *node = json!([copy, copy, {word: copy}]);
        }
        8 => {
            if let Value::Object(members) = node {
                let key = members.keys().nth(below(random, members.len())).cloned();
                if let Some(key) = key {
                    members.remove(&key);
                }
            }
        }
        _ => {
            let copy = node.clone();
            if let Value::Object(members) = node {
                members.insert(word.to_owned(), copy);
            } else {
                *node = Value::Object(Map::from_iter([(word.to_owned(), copy)]));
            }
        }
    }
    serde_json::to_vec(&value).unwrap_or_default()
}

/// A value within `node`, or itself.
fn somewhere<'a>(node: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let len = match node {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => 0,
    };
    if len == 0 || random.chance(25) {
        return node;
    }
    let at = below(random, len);
    let deeper = match node {
        Value::Array(items) => items.get_mut(at),
        Value::Object(members) => members.values_mut().nth(at),
        _ => None,
    };
    somewhere(deeper.expect("counted above"), random)
}
