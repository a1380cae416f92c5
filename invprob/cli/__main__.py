"""`python -m invprob.cli` is the `invprob` command."""

from invprob.cli import main

if __name__ == "__main__":
    main()
