"""One module for each command of `fluxnb`: `register` describes it to the parser and names what runs it.

What a command needs of the rest of the package is imported when it runs, so that `fluxnb --help` answers
at once.
"""
