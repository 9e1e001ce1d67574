"""`python -m depthlm`: the command line where the script is not on the path."""

from depthlm.cli import main

if __name__ == "__main__":
    main()
