//! Reading numbers out of text.
//!
//! Owns the fast path for the short numbers that data files hold. Finding where a number ends is
//! left to the formats, and so is what to say about a wrong one.
//!
//! Invariant: every value is the one that `str::parse` gives, to the bit.

/// Mantissas below this and the powers of ten below are exact as f32, so that one product or
/// quotient of them is correctly rounded. Source: Clinger, PLDI 1990.
const MANTISSA_MAX: u32 = 1 << 24;
const POWERS_OF_TEN: [f32; 11] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];
/// Digits after which a mantissa cannot have left u32.
const DIGITS_MAX: usize = 9;

/// The number that all of `token` spells, or none. It may be infinite or NaN, if `token` says so.
#[inline]
pub(crate) fn number(token: &[u8]) -> Option<f32> {
    short_number(token).or_else(|| long_number(token))
}

/// As `number`, in double precision.
pub(crate) fn number_f64(token: &[u8]) -> Option<f64> {
    str::from_utf8(token).ok()?.parse().ok()
}

/// The number that all of `token` spells in decimal digits, if it is below 2^64.
#[inline]
pub(crate) fn decimal(token: &[u8]) -> Option<u64> {
    if token.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for byte in token {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// As `decimal`, with an optional sign.
#[inline]
pub(crate) fn integer(token: &[u8]) -> Option<i64> {
    match token {
        [b'-', digits @ ..] => 0i64.checked_sub_unsigned(decimal(digits)?),
        [b'+', digits @ ..] => decimal(digits)?.try_into().ok(),
        digits => decimal(digits)?.try_into().ok(),
    }
}

#[inline]
fn short_number(token: &[u8]) -> Option<f32> {
    let (negative, digits) = match token {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.len() > DIGITS_MAX + 1 {
        return None;
    }
    let (mut mantissa, mut count, mut point) = (0u32, 0, None);
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 && count < DIGITS_MAX {
            mantissa = mantissa * 10 + u32::from(digit);
            count += 1;
        } else if byte == b'.' && point.is_none() {
            point = Some(count);
        } else {
            return None;
        }
    }
    if count == 0 || mantissa >= MANTISSA_MAX {
        return None;
    }
    let decimals = point.map_or(0, |point| count - point);
    let value = mantissa as f32 / POWERS_OF_TEN[decimals];
    Some(if negative { -value } else { value })
}

#[cold]
fn long_number(token: &[u8]) -> Option<f32> {
    str::from_utf8(token).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str) {
        let expected = text.parse::<f32>().ok().map(f32::to_bits);
        assert_eq!(number(text.as_bytes()).map(f32::to_bits), expected, "{text:?}");
    }

    #[test]
    fn numbers_are_those_of_the_standard_library_at_every_edge_of_the_fast_path() {
        for text in [
            "",
            "+",
            "-",
            ".",
            "-.",
            "0",
            "-0",
            "+1",
            "1.",
            ".5",
            "0.1",
            "16777215",
            "16777216",
            "123456789",
            "1234567890",
            "0.000000001",
            "1e5",
            "1e99",
            "nan",
            "-inf",
            "1.2.3",
            "1 ",
            "999999.99",
            "--1",
            "0x10",
            "1_0",
        ] {
            check(text);
        }
    }

    #[test]
    fn integers_end_at_their_limits() {
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal(b"18446744073709551616"), None);
        assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer(b"9223372036854775808"), None);
        assert_eq!((integer(b"+7"), integer(b"-"), integer(b"")), (Some(7), None, None));
    }

    proptest! {
        #[test]
        fn any_number_reads_as_in_the_standard_library(
            text in "[+-]?[0-9]{0,11}(\\.[0-9]{0,11})?(e-?[0-9]{1,2})?"
        ) {
            check(&text);
        }
    }
}
