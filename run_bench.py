"""``python run_bench.py ...`` is ``ddbench ...``; works in a bare checkout, from any folder."""

from ddbench.cli import main

if __name__ == "__main__":
    main()
