"""Several processes over one database: who lives, who runs which task, and following it from elsewhere."""
