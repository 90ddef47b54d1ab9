"""Loads once what the commands need, so that a process forked from here starts in milliseconds."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch.utils.tensorboard  # noqa: F401

import maskconver.cli.data.convert
import maskconver.cli.data.synth
import maskconver.cli.export
import maskconver.cli.predict.command
import maskconver.cli.train
import maskconver.export.driver
import maskconver.inference.predictor
import maskconver.training.run  # noqa: F401
