"""The command lines of the tools: arguments in, one call of the library, an exit code out.

Nothing else imports from here.
"""
