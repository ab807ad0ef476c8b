"""`python -m curation_features`: the command line."""

from curation_features.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
