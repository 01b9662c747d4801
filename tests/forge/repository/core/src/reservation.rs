//! Reservations: who waits for a book, in order.

use std::collections::{BTreeMap, VecDeque};

use crate::Isbn;

/// Who waits for what.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    by_book: BTreeMap<Isbn, VecDeque<u32>>,
}

impl Reservations {
    /// Puts a member at the end of the line; false where it stands there already.
    pub fn add(&mut self, isbn: &Isbn, member: u32) -> bool {
        let line = self.by_book.entry(isbn.clone()).or_default();
        if line.contains(&member) {
            return false;
        }
        line.push_back(member);
        true
    }

    /// Whose turn it is.
    pub fn next(&mut self, isbn: &Isbn) -> Option<u32> {
        self.by_book.get_mut(isbn)?.pop_front()
    }

    pub fn is_waited_for(&self, isbn: &Isbn) -> bool {
        self.by_book.get(isbn).is_some_and(|line| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_first_is_first() {
        let isbn = Isbn::parse("0306406152").unwrap();
        let mut all = Reservations::default();
        assert!(all.add(&isbn, 7) && all.add(&isbn, 3) && !all.add(&isbn, 7));
        assert_eq!(all.next(&isbn), Some(7));
        assert!(all.is_waited_for(&isbn));
    }
}
