"""`python -m trainer.data.prepare`."""

from trainer.data.prepare.prepare import main

if __name__ == "__main__":
    main()
