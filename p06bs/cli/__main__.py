"""``python -m p06bs.cli`` is ``p06bs``."""

from p06bs.cli import main

if __name__ == "__main__":
    main()
