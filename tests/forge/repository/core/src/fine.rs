//! Fines for late books.

use crate::loan::Loan;
use crate::{Cents, Date};

/// What a day costs.
pub const A_DAY: Cents = Cents(20);
/// What a book costs at most.
pub const BOOK_MAX: Cents = Cents(1000);

/// What a loan costs if the book comes back today.
pub fn of(loan: &Loan, today: Date) -> Cents {
    let days = loan.days_late(today) as u64;
    Cents(days * A_DAY.0).min(BOOK_MAX)
}

/// What several loans cost together.
pub fn total<'a>(loans: impl IntoIterator<Item = &'a Loan>, today: Date) -> Cents {
    loans.into_iter().map(|loan| of(loan, today)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isbn;

    #[test]
    fn late_days_cost_up_to_the_most() {
        let loan = Loan::new(Isbn::parse("0306406152").unwrap(), 1, Date(0));
        assert_eq!(of(&loan, Date(28)), Cents(0));
        assert_eq!(of(&loan, Date(31)), Cents(60));
        assert_eq!(of(&loan, Date(400)), BOOK_MAX);
    }
}
