"""`python -m autotl`."""

from autotl.cli import main

if __name__ == "__main__":
    main()
