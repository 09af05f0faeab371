"""Who may come in: users, services and their tokens."""
