"""Fines: 20 cents a day, at most 10.00 a book. Money is in cents."""

A_DAY = 20
BOOK_MAX = 1000


def fine(loan, today):
    return min(loan.days_late(today) * A_DAY, BOOK_MAX)


def as_text(cents):
    return f"{cents // 100}.{cents % 100:02}"
