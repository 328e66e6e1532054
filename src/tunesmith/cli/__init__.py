"""The command line: one file a command, each a thin door to what Python can do as well."""
