"""`python -m depthlm` is the command line."""

from depthlm.cli import main

main()
