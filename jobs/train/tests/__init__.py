"""Tests of jobs/train: `make train-test`, or `python -m unittest discover -s jobs/train -t jobs/train`."""
