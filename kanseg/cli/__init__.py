"""The command lines of the tools: parse the arguments, call the library, return an exit code.

Every module has `main(arguments)`. It imports what it needs after parsing, so that `--help` and a
wrong option are answered without loading torch. Nothing else imports from here.
"""
