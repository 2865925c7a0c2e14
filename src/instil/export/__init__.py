"""Export: a student in the formats of production engines, each proved against the student before it is published."""
