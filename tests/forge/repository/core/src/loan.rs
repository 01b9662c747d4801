//! Loans: who has which book until when.

use crate::{Date, Isbn};

/// Days that a loan runs.
pub const LOAN_DAYS: i64 = 28;
/// Days that a renewal adds.
pub const RENEWAL_DAYS: i64 = 14;
/// Renewals of one loan.
pub const RENEWALS_MAX: u8 = 2;

/// A book that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loan {
    pub isbn: Isbn,
    pub member: u32,
    pub from: Date,
    pub due: Date,
    pub renewals: u8,
}

/// Why a loan is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRenewed {
    Waited,
    TooOften,
    Late,
}

impl Loan {
    pub fn new(isbn: Isbn, member: u32, from: Date) -> Loan {
        Loan { isbn, member, from, due: from.after(LOAN_DAYS), renewals: 0 }
    }

    /// Renews it, unless somebody waits for the book.
    pub fn renew(&mut self, today: Date, waited_for: bool) -> Result<(), NotRenewed> {
        if waited_for {
            return Err(NotRenewed::Waited);
        }
        if self.renewals >= RENEWALS_MAX {
            return Err(NotRenewed::TooOften);
        }
        if today > self.due {
            return Err(NotRenewed::Late);
        }
        self.due = self.due.after(RENEWAL_DAYS);
        self.renewals += 1;
        Ok(())
    }

    /// Days past the due day; 0 while it is in time.
    pub fn days_late(&self, today: Date) -> i64 {
        today.since(self.due).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loan_is_renewed_twice() {
        let mut loan = Loan::new(Isbn::parse("0306406152").unwrap(), 1, Date(0));
        assert_eq!(loan.due, Date(28));
        assert!(loan.renew(Date(28), false).is_ok());
        assert!(loan.renew(Date(30), false).is_ok());
        assert_eq!(loan.renew(Date(31), false), Err(NotRenewed::TooOften));
        assert_eq!(loan.due, Date(56));
        assert_eq!(loan.days_late(Date(58)), 2);
    }
}
