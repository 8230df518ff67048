"""Study a finished run: ``python diagnose.py run=<run folder> study=<name> [study.key=value]``."""

from vrx.commands.diagnose import main

if __name__ == "__main__":
    main()
