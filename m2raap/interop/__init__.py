"""Models of other projects under the metrics of m2raap, and its models inside the harnesses of other projects."""
