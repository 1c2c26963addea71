"""`python -m launch` is `escala`."""

from launch.cli import main

main()
