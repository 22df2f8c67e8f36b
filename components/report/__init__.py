"""The page a person reads and the numbers a program reads."""
