"""Explain photos with a finished run: ``python explain.py run=<run folder> images=<file or folder>``."""

from vrx.commands.explain import main

if __name__ == "__main__":
    main()
