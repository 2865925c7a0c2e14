"""`python -m instil`: the command line, for launchers that start modules."""

from instil.run.cli import main

if __name__ == "__main__":
    main()
