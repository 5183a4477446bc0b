"""What a finished run looks like: its page, its tables, comparisons, protocols, checks of benchmarks. Nothing is trained."""
