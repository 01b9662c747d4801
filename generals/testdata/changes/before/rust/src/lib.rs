//! A library.

pub fn parse(text: &str) -> Option<u32> {
    text.parse().ok()
}

pub fn gone() {}

pub enum Kind {
    One,
    Two,
}

pub struct Settings {
    pub name: String,
    pub limit: u32,
}
