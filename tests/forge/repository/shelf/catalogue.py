"""Catalogues in CSV: isbn, title, author, copies."""

import csv
from dataclasses import dataclass

from .isbn import is_valid


@dataclass(frozen=True)
class Book:
    isbn: str
    title: str
    author: str
    copies: int


def read_catalogue(file):
    """Books, and what could not be read as (line, reason)."""
    books, faults = [], []
    for number, row in enumerate(csv.DictReader(file), start=2):
        if not is_valid(row.get("isbn") or ""):
            faults.append((number, f"no ISBN: {row.get('isbn')!r}"))
            continue
        try:
            copies = int(row["copies"])
        except (KeyError, TypeError, ValueError):
            faults.append((number, f"no number of copies: {row.get('copies')!r}"))
            continue
        books.append(Book(row["isbn"].replace("-", ""), row["title"], row["author"], copies))
    return books, faults
