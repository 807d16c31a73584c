"""`python -m autotl`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # `-m` puts the current folder first, where a file may be named like a module: torch.py
    from autotl.cli import main

    main()
