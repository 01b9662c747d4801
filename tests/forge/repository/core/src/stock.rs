//! Stock: how many copies there are, and how many are out.

use std::collections::BTreeMap;

use crate::Isbn;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    pub owned: u32,
    pub out: u32,
}

/// All books.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    copies: BTreeMap<Isbn, Copies>,
}

impl Stock {
    pub fn add(&mut self, isbn: Isbn, copies: u32) {
        self.copies.entry(isbn).or_default().owned += copies;
    }

    /// Takes a copy; false where none is there.
    pub fn take(&mut self, isbn: &Isbn) -> bool {
        match self.copies.get_mut(isbn) {
            Some(copies) if copies.out < copies.owned => {
                copies.out += 1;
                true
            }
            _ => false,
        }
    }

    /// Puts a copy back; false where none was out.
    pub fn put(&mut self, isbn: &Isbn) -> bool {
        match self.copies.get_mut(isbn) {
            Some(copies) if copies.out > 0 => {
                copies.out -= 1;
                true
            }
            _ => false,
        }
    }

    pub fn copies(&self, isbn: &Isbn) -> Copies {
        self.copies.get(isbn).copied().unwrap_or_default()
    }
}
