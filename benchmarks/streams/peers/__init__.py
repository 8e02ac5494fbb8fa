"""One small application for each peer; all answer the same request with the same tokens."""
