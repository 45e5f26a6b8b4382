//! The checksum of a file whose first bytes are known last.
//!
//! Owns putting two CRC-32C together. The checksum itself is left to `kernels::crc32c`.
//!
//! Invariant: a remainder is a polynomial over two elements modulo the Castagnoli polynomial, its
//! highest power in the lowest bit, so that bytes that follow multiply it by a power of x.

/// The Castagnoli polynomial without `x^32`, highest power in the lowest bit.
const POLYNOMIAL: u32 = 0x82F6_3B78;
/// The polynomials `1` and `x`.
const ONE: u32 = 1 << 31;
const X: u32 = 1 << 30;

/// The CRC-32C of two strings of bytes one after the other, from the CRC-32C of each.
///
/// - `second_bytes`: the length of the second, below 2^61.
/// - Source: Adler, `crc32_combine` of zlib: the first's remainder times `x^(8 · second_bytes)`.
pub(super) fn combine(first: u32, second: u32, second_bytes: u64) -> u32 {
    product(first, power(8 * second_bytes)) ^ second
}

/// `x^exponent`, modulo the polynomial.
fn power(mut exponent: u64) -> u32 {
    let (mut result, mut square) = (ONE, X);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = product(result, square);
        }
        square = product(square, square);
        exponent >>= 1;
    }
    result
}

/// `a · b`, modulo the polynomial.
fn product(a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    for bit in (0..u32::BITS).rev() {
        if a >> bit & 1 == 1 {
            sum ^= b;
        }
        b = if b & 1 == 1 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::Isa;
    use kernels::crc32c::crc32c;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_checksums_of_two_strings_make_the_checksum_of_both(
            first: Vec<u8>, second: Vec<u8>,
        ) {
            let isa = Isa::detect();
            let both = crc32c(isa, crc32c(isa, 0, &first), &second);
            let (a, b) = (crc32c(isa, 0, &first), crc32c(isa, 0, &second));
            prop_assert_eq!(combine(a, b, second.len() as u64), both);
        }
    }
}
