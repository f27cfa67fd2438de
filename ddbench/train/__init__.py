"""Training: the engine, many students at once, teachers and experts, labellers."""
