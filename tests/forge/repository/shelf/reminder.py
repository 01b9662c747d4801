"""Reminders by mail, three days ahead and on the day after."""

AHEAD = 3


def reminders(loans, today):
    """(member, subject, text) for each reminder that is due today."""
    out = []
    for loan in loans:
        left = (loan.due - today).days
        if left == AHEAD:
            out.append((loan.member, "A book is due soon", f"Please bring {loan.isbn} back by {loan.due}."))
        elif left == -1:
            out.append((loan.member, "A book is late", f"{loan.isbn} was due on {loan.due}."))
    return out
