"""`python -m kanseg`, also below torchrun and accelerate launch."""

from kanseg.cli.main import main

if __name__ == "__main__":
    main()
