"""What a finished run looks like: its page, its tables, comparisons, protocol cards, checks of benchmarks. Nothing is trained."""
