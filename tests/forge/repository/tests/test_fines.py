import unittest
from datetime import date

from shelf.fines import as_text, fine
from shelf.loans import Loan

LOAN = Loan("0306406152", "ada", date(2024, 2, 1))


class Fines(unittest.TestCase):
    def test_late_days_cost_up_to_the_most(self):
        self.assertEqual(fine(LOAN, date(2024, 2, 1)), 0)
        self.assertEqual(fine(LOAN, date(2024, 2, 4)), 60)
        self.assertEqual(fine(LOAN, date(2025, 2, 4)), 1000)

    def test_text_has_two_digits(self):
        self.assertEqual(as_text(105), "1.05")


if __name__ == "__main__":
    unittest.main()
