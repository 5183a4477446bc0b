"""A tagger: what is in a clip, by mixtures of experts over its frame vectors, trained by map-reduce."""
