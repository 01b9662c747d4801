//! A library.

pub fn parse(text: &str, radix: u32) -> Option<u32> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let negative = text.starts_with('-');
    if negative {
        return None;
    }
    let value = u32::from_str_radix(text, radix).ok()?;
    Some(value)
}

pub fn fresh() -> bool {
    true
}

pub enum Kind {
    One,
    Three,
}

pub struct Settings {
    pub name: String,
    limit: u32,
}
