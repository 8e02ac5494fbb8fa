"""Records and events of tasks in the database: written behind, read back, and pruned."""
