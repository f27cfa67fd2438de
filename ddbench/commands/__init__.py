"""Commands and their help; no logic.  A module holds the commands of one topic, in ``COMMANDS``."""
