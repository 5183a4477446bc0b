"""What goes out to others: corpora with their card and audit, and models with what they were measured to find."""
