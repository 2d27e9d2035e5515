"""``python -m smhf_native`` prints what is built, what is missing and why."""

from smhf_native.configuration import main

if __name__ == "__main__":
    main()
