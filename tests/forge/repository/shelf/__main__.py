"""`python3 -m shelf report FILE`: what is overdue."""

import sys
from datetime import date

from .loans import read_loans
from .report import overdue


def main(words):
    if len(words) != 2 or words[0] != "report":
        print("usage: python3 -m shelf report FILE", file=sys.stderr)
        return 2
    with open(words[1], newline="") as file:
        loans = read_loans(file)
    print(overdue(loans, date.today()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
