"""The `maskconver` command: one file a command, nothing in it but arguments and printing."""
