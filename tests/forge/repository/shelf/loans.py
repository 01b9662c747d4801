"""Loans in CSV: isbn, member, due."""

import csv
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Loan:
    isbn: str
    member: str
    due: date

    def days_late(self, today):
        return max((today - self.due).days, 0)


def read_loans(file):
    return [Loan(row["isbn"], row["member"], date.fromisoformat(row["due"])) for row in csv.DictReader(file)]
