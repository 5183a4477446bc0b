"""Self-supervised co-training: clusters of one modality teach the others. It reads clips and writes weights; no texts needed."""
