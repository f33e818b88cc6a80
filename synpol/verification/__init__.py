"""Check a finished result: every file against its checksum, its records and the other files."""
