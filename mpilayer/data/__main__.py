"""`python -m mpilayer.data pack FOLDER OUT.h5`."""

import sys

from mpilayer.data.pack import main

if __name__ == "__main__":
    main(sys.argv[1:])
