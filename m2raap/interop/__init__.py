"""Other people's models under our metrics, and ours inside other people's harnesses."""
