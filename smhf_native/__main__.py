"""``python -m smhf_native``: the ``smhf`` command; alone it prints what is built, what is missing and why."""

import sys

from smhf_native.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["doctor"]))
