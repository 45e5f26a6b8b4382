//! Mutations: from a good input to a bad one.
//!
//! Owns changes that need no knowledge of the format. Those that do are left to the targets.

use crate::random::Random;

/// The longest input, in bytes.
pub(crate) const INPUT_BYTES_MAX: usize = 4096;

/// The most changes to one input.
const CHANGES_MAX: u64 = 4;

/// Bytes at the edges of their ranges.
const EDGE_BYTES: [u8; 6] = [0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF];

/// Changes `input` a few times. `other` is another good input, `tokens` are words of the format.
pub(crate) fn mutate(input: &mut Vec<u8>, other: &[u8], tokens: &[&[u8]], random: &mut Random) {
    for _ in 0..1 + random.below(CHANGES_MAX) {
        change(input, other, tokens, random);
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn change(input: &mut Vec<u8>, other: &[u8], tokens: &[&[u8]], random: &mut Random) {
    let at = random.index(input.len() + 1);
    match random.below(9) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.choose(&EDGE_BYTES),
        2 => input.truncate(at),
        3 => splice(input, at, &vec![random.next() as u8; 1 + random.index(16)]),
        4 => {
            let from = random.index(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        5 => {
            let chunk = piece(input, random).to_vec();
            splice(input, at, &chunk);
        }
        6 => {
            let len = piece(input, random).len();
            let end = (at + len).min(input.len());
            input.drain(at..end);
        }
        7 if input.len() >= 16 => {
            let words = input.len() / 8;
            let (one, two) = (8 * random.index(words), 8 * random.index(words));
            (0..8).for_each(|byte| input.swap(one + byte, two + byte));
        }
        8 if !tokens.is_empty() => {
            let token = random.choose(tokens);
            splice(input, at, token);
        }
        _ => input.push(random.choose(&EDGE_BYTES)),
    }
}

/// Inserts `what`.
fn splice(input: &mut Vec<u8>, at: usize, what: &[u8]) {
    input.splice(at..at, what.iter().copied());
}

fn piece<'a>(input: &'a [u8], random: &mut Random) -> &'a [u8] {
    let start = random.index(input.len() + 1);
    let len = random.index((input.len() - start).min(64) + 1);
    &input[start..start + len]
}
