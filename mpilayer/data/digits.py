"""`digits`: handwritten digits that come with the package."""

from dataclasses import replace
from pathlib import Path

from mpilayer.data.augment import WINDOW
from mpilayer.data.source import Source
from mpilayer.data.stored import open_file

FILE = Path(__file__).with_name("digits.h5")


def open_digits(*, seed=0, ranks=None):
    """Data of 1437 training and 360 test images (8,8,1) of 10 classes, the same for every seed."""
    return replace(open_file(str(FILE)), name="digits")


DIGITS = Source(open_digits, "images", (WINDOW,))
