//! Text as a reader would take it: without invisible letters, with look-alikes as the letters they look like, decoded.

/// Base64 that is decoded at most, in bytes of one text.
const BASE64_MAX: usize = 64 * 1024;
/// Shortest base64 that is looked at.
const BASE64_MIN: usize = 32;

/// Whether a letter shows nothing.
fn is_invisible(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text without letters that show nothing.
pub(super) fn visible(text: &str) -> String {
    text.chars().filter(|letter| !is_invisible(*letter)).collect()
}

/// What letters that show nothing spell (tag letters mirror ASCII), and how many there are of those that have no use in text.
pub(super) fn hidden_letters(text: &str) -> (String, usize) {
    let mut spelt = String::new();
    let mut number = 0;
    for letter in text.chars() {
        match letter {
            '\u{e0020}'..='\u{e007e}' => {
                spelt.extend(char::from_u32(u32::from(letter) - 0xe0000));
                number += 1;
            }
            // Joiners and variation selectors stand in ordinary emoji and scripts.
            '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' => {}
            letter if is_invisible(letter) => number += 1,
            _ => {}
        }
    }
    (spelt, number)
}

/// Lower case Latin for letters that look like it, without accents, and one space for each run of white space but line ends.
pub(super) fn folded(text: &str) -> String {
    let fold = |letter: char| match letter {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(letter) - 0xfee0).unwrap_or(letter),
        '\u{1d400}'..='\u{1d6a3}' => {
            let place = u8::try_from((u32::from(letter) - 0x1d400) % 52).unwrap_or_default();
            char::from(if place < 26 { b'a' + place } else { b'a' + place - 26 })
        }
        'а' | 'à'..='å' | 'ɑ' | 'α' => 'a',
        'е' | 'è'..='ë' | 'ё' | 'ε' => 'e',
        'о' | 'ò'..='ö' | 'ο' | 'ø' => 'o',
        'р' | 'ρ' => 'p',
        'с' | 'ç' | 'ϲ' => 'c',
        'у' | 'ÿ' | 'ý' => 'y',
        'х' | 'χ' => 'x',
        'і' | 'ì'..='ï' | 'ι' | 'ı' => 'i',
        'ѕ' => 's',
        'ј' => 'j',
        'ԁ' => 'd',
        'ɡ' => 'g',
        'һ' => 'h',
        'ո' => 'n',
        'ν' | 'ѵ' => 'v',
        'ù'..='ü' | 'υ' => 'u',
        'ñ' => 'n',
        'к' | 'κ' => 'k',
        'м' => 'm',
        'т' | 'τ' => 't',
        'ⅼ' => 'l',
        other => other,
    };
    text.chars().filter(|letter| !matches!(letter, '\u{300}'..='\u{36f}')).map(fold).flat_map(char::to_lowercase).collect()
}

/// The text with its HTML entities decoded; `None` where it has none.
pub(super) fn entities_decoded(text: &str) -> Option<String> {
    let mut decoded = String::new();
    let mut rest = text;
    let mut any = false;
    while let Some((before, after)) = rest.split_once('&') {
        decoded.push_str(before);
        let entity = after.split_once(';').filter(|(name, _)| name.len() <= 8);
        let letter = entity.and_then(|(name, _)| match name {
            "lt" => Some('<'),
            "gt" => Some('>'),
            "amp" => Some('&'),
            "quot" => Some('"'),
            "nbsp" => Some(' '),
            _ => {
                let digits = name.strip_prefix('#')?;
                let number = match digits.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => digits.parse().ok()?,
                };
                char::from_u32(number)
            }
        });
        match (letter, entity) {
            (Some(letter), Some((_, behind))) => {
                decoded.push(letter);
                rest = behind;
                any = true;
            }
            _ => {
                decoded.push('&');
                rest = after;
            }
        }
    }
    decoded.push_str(rest);
    any.then(|| decoded.to_lowercase())
}

/// What stands in HTML comments.
pub(super) fn comments(text: &str) -> impl Iterator<Item = &str> {
    text.split("<!--").skip(1).map(|rest| rest.split("-->").next().unwrap_or_default())
}

/// What base64 in the text says, where it says something in letters.
pub(super) fn base64_texts(text: &str) -> Vec<String> {
    let is_digit = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '/' | '-' | '_' | '=');
    let mut texts = Vec::new();
    let mut decoded = 0;
    for run in text.split(|letter| !is_digit(letter)).filter(|run| run.len() >= BASE64_MIN) {
        let run: String = run.chars().map(|it| if it == '-' { '+' } else if it == '_' { '/' } else { it }).collect();
        // Whatever stands before it, such as `key=`, is not part of it.
        let run = run.trim_end_matches('=');
        let run = run.rsplit('=').next().unwrap_or_default();
        decoded += run.len();
        if decoded > BASE64_MAX {
            break;
        }
        let Some(bytes) = crate::request::base64_decode(run) else { continue };
        let letters = bytes.iter().filter(|byte| byte.is_ascii_alphabetic() || **byte == b' ').count();
        if bytes.len() >= 16 && letters * 10 >= bytes.len() * 8 {
            texts.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    texts
}
