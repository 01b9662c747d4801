//! Members: what they owe, and whether they may borrow.

use crate::Cents;

/// What may be open while one borrows.
pub const OPEN_MAX: Cents = Cents(500);
/// Books that a member has at a time.
pub const BOOKS_MAX: usize = 10;

/// Somebody who borrows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub number: u32,
    pub name: String,
    pub open: Cents,
    pub books: usize,
}

/// Why somebody may not borrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayNot {
    Owes(Cents),
    HasTooMany(usize),
}

impl Member {
    pub fn may_borrow(&self) -> Result<(), MayNot> {
        if self.open > OPEN_MAX {
            return Err(MayNot::Owes(self.open));
        }
        if self.books >= BOOKS_MAX {
            return Err(MayNot::HasTooMany(self.books));
        }
        Ok(())
    }

    /// Pays, and returns what was paid too much.
    pub fn pay(&mut self, amount: Cents) -> Cents {
        let change = amount - self.open;
        self.open = self.open - amount;
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_owes_much_borrows_nothing() {
        let mut member = Member { open: Cents(501), ..Member::default() };
        assert_eq!(member.may_borrow(), Err(MayNot::Owes(Cents(501))));
        assert_eq!(member.pay(Cents(600)), Cents(99));
        assert_eq!(member.may_borrow(), Ok(()));
    }
}
