"""Around the rules of a lending library: catalogues, reports, reminders."""

__version__ = "0.3.0"
