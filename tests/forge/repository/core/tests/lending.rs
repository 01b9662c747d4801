//! A book goes out and comes back late.

use shelf_core::loan::Loan;
use shelf_core::stock::Stock;
use shelf_core::{fine, Cents, Date, Isbn};

#[test]
fn a_late_book_costs_and_is_there_again() {
    let isbn = Isbn::parse("978-0-306-40615-7").unwrap();
    let mut stock = Stock::default();
    stock.add(isbn.clone(), 1);
    assert!(stock.take(&isbn) && !stock.take(&isbn));
    let loan = Loan::new(isbn.clone(), 1, Date::of(2024, 2, 1).unwrap());
    let back = Date::of(2024, 3, 4).unwrap();
    assert_eq!(fine::of(&loan, back), Cents(80));
    assert!(stock.put(&isbn));
    assert_eq!(stock.copies(&isbn).out, 0);
}
