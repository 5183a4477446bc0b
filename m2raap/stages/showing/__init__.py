"""What a run found, set out: the report, two runs side by side, published anchors, faults of a benchmark."""
