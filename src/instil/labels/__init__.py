"""Labels: what a teacher knows about a data set, paid for once, stored a row at a time under its record's id."""
