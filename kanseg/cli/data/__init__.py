"""The verbs about data sets: check, convert, formats."""
