"""`python -m calibsweep`: the console script by its module."""

from calibsweep.console import entry

if __name__ == "__main__":
    entry()
