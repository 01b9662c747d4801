//! The rules of a lending library.

pub mod date;
pub mod fine;
pub mod isbn;
pub mod loan;
pub mod member;
pub mod money;
pub mod reservation;
pub mod stock;

pub use date::Date;
pub use isbn::Isbn;
pub use money::Cents;
