"""``python -m ddbench ...`` is ``ddbench ...``; what ``torchrun -m ddbench`` starts."""

from ddbench.cli import main

if __name__ == "__main__":
    main()
