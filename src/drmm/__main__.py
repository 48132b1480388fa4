"""`python -m drmm`: the command line, where `drmm` is not on the path."""

from drmm.cli.app import main

if __name__ == "__main__":
    main()
