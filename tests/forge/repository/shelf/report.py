"""Reports for the people at the desk."""

from .fines import as_text, fine


def overdue(loans, today):
    """One line for each late loan, the latest first."""
    late = sorted((one for one in loans if one.days_late(today)), key=lambda one: one.due)
    lines = [f"{one.member}: {one.isbn}, {one.days_late(today)} days late, {as_text(fine(one, today))}" for one in late]
    return "\n".join(lines) or "nothing is overdue"
