"""The command line: one file a command. Heavy imports are inside, so that `--help` is quick."""
