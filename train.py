"""Explain a classifier from end to end: ``python train.py [experiment=...]``; see :mod:`vrx.commands.train`."""

from vrx.commands.train import main

if __name__ == "__main__":
    main()
