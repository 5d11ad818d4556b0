"""`python -m devc` is the `devc` command."""

from devc.cli.main import main

if __name__ == "__main__":
    main()
