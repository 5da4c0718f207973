"""``python -m vtc.cli``"""

from vtc.cli import main

if __name__ == "__main__":  # and not in worker processes, which import this module
    main()
