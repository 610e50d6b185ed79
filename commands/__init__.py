"""The command line: one file a command. Imports are inside the commands, so that `--help` is quick."""
