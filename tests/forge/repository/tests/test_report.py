import io
import unittest
from datetime import date

from shelf.loans import read_loans
from shelf.reminder import reminders
from shelf.report import overdue

TEXT = "isbn,member,due\n0306406152,ada,2024-02-01\n9780306406157,bob,2024-02-08\n"


class Report(unittest.TestCase):
    def test_late_loans_are_listed(self):
        loans = read_loans(io.StringIO(TEXT))
        self.assertEqual(overdue(loans, date(2024, 2, 3)), "ada: 0306406152, 2 days late, 0.40")
        self.assertEqual(overdue([], date(2024, 2, 3)), "nothing is overdue")

    def test_reminders_go_out_ahead_and_after(self):
        loans = read_loans(io.StringIO(TEXT))
        self.assertEqual([one[0] for one in reminders(loans, date(2024, 2, 2))], ["ada"])
        self.assertEqual([one[0] for one in reminders(loans, date(2024, 2, 5))], ["bob"])


if __name__ == "__main__":
    unittest.main()
