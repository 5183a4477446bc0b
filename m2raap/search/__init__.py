"""Clips by text, picture or video: the index on disk, what is asked of it, and vectors of any folder of videos."""
