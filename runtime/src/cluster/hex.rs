//! Bytes as text.

/// Two lower-case digits per byte.
pub(super) fn of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sixteen digits.
pub(super) fn of_u64(number: u64) -> String {
    format!("{number:016x}")
}

/// The bytes of an exact number of digits.
pub(super) fn to<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_give_their_bytes_back_and_others_are_refused() {
        assert_eq!(to::<3>(&of(&[0, 0xab, 255])), Some([0, 0xab, 255]));
        assert_eq!(to::<3>("00ab"), None);
        assert_eq!(to::<2>("00ag"), None);
        assert_eq!(to::<1>("é"), None);
    }
}
