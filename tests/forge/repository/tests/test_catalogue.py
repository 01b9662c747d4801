import io
import unittest

from shelf.catalogue import Book, read_catalogue


class Catalogue(unittest.TestCase):
    def test_books_are_read_and_faults_named(self):
        text = "isbn,title,author,copies\n0-306-40615-2,A,B,2\n123,C,D,1\n0306406152,E,F,x\n"
        books, faults = read_catalogue(io.StringIO(text))
        self.assertEqual(books, [Book("0306406152", "A", "B", 2)])
        self.assertEqual([line for line, _ in faults], [3, 4])


if __name__ == "__main__":
    unittest.main()
