//! Base64 (RFC 4648, standard alphabet, padded), as CloudEvents carries binary data in JSON.

/// Decodes `text`; `None` when it is not canonical padded base64.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    let padding = bytes.iter().rev().take(2).take_while(|&&byte| byte == b'=').count();
    let digits = &bytes[..bytes.len() - padding];
    let mut decoded = Vec::with_capacity(bytes.len() / 4 * 3);
    let (mut held, mut bits) = (0u32, 0u32);
    for &digit in digits {
        held = (held << 6) | value(digit)?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            decoded.push(((held >> bits) & 0xff) as u8);
            held &= (1 << bits) - 1;
        }
    }
    // Bits left over must be zero, or two texts would mean the same bytes.
    (held == 0).then_some(decoded)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn the_examples_of_the_rfc_decode() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(decode("+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
    }

    #[test]
    fn what_is_not_canonical_base64_is_refused() {
        for text in ["Z", "Zg", "Zg=", "Zh==", "Z===", "====", "Zm9v\n", "Zm-_", "Zg==Zg==", "=Zg="] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
